-- New orders for product 1, of 10,000 users in turn. Argument: the path.
local head = { ["Content-Type"] = "application/json" }
local path, user

function init(args)
  path = args[1]
  user = math.random(0, 9999)
end

function request()
  user = (user + 7919) % 10000
  local body = string.format(
    '{"userId":"user-%07d","productId":"1","productName":"Espresso machine","totalOrderAmount":"RM 99"}', user)
  return wrk.format("POST", path, head, body)
end
