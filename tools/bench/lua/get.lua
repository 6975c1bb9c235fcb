-- GETs, in turn, over the names in a file. Arguments: what stands before each name, the file.
local requests, turn = {}, 0

function init(args)
  for name in io.lines(args[2]) do
    requests[#requests + 1] = wrk.format("GET", args[1] .. name)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
