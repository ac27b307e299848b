-- Another token with each request. PLACES in capitals are filled in by bench/src/l7/auth/tokens.rs.
local requests, at = {}, 0

function init()
  for token in io.lines("TOKENS") do
    requests[#requests + 1] = wrk.format("GET", "PATH", { ["Authorization"] = "Bearer " .. token })
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
