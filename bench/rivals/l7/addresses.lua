-- Another client's address with each request, all different until the 24 bits are used up.
local at = 0

function request()
  at = at + 1
  local address = string.format("10.%d.%d.%d", math.floor(at / 65536) % 256, math.floor(at / 256) % 256, at % 256)
  return wrk.format("GET", "/api/user/profile", { ["X-Forwarded-For"] = address })
end
