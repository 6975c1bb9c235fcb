-- New orders for product 1, of 10,000 users in turn. Arguments: the path; optionally the mean pause of a connection between two
-- requests, in milliseconds.
local head = { ["Content-Type"] = "application/json" }
local path, user

function init(args)
  path = args[1]
  user = math.random(0, 9999)
  local pause = tonumber(args[2])
  if pause then
    function delay()
      return math.random(0, 2 * pause)
    end
  end
end

function request()
  user = (user + 7919) % 10000
  local body = string.format(
    '{"userId":"user-%07d","productId":"1","productName":"Espresso machine","totalOrderAmount":"RM 99"}', user)
  return wrk.format("POST", path, head, body)
end
