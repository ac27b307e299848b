-- Charges all limits of one request at once, or none of them: the same steps as budget.rs, in whole
-- microseconds. Every number stays below 2^52, which a double holds exactly.
--
-- KEYS[i]   counter of limit i
-- ARGV[1]   0: this server's clock; else the time in microseconds, and counters do not expire
-- then four per limit:
--   'b' fill cost capacity      token bucket; the counter is the text "level stamp cost"
--   'l' fill cost capacity      leaky bucket; the same, and who is admitted waits for his turn
--   'f' count per 0             fixed window; the counter is the text "index used"
--   'm' count 0 0               month of the calendar (UTC); the same
--   'w' count per 0             sliding window; the counter is a list of admission times, oldest first
--
-- Answers four numbers per limit: 1 admit or 0 refuse, units left, microseconds until the next unit,
-- microseconds to wait.

local function whole(number) return string.format('%.0f', number) end
local function divide(a, b) return (a - math.fmod(a, b)) / b end

local now = tonumber(ARGV[1])
local own_clock = now == 0
if own_clock then
  local clock = redis.call('TIME')
  now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
end

-- A counter of another algorithm (the limit was changed) starts afresh.
local function read(key, ...)
  local value = redis.pcall(...)
  if type(value) == 'table' and value.err then
    redis.call('DEL', key)
    return false
  end
  return value
end

local function bucket(key, fill, cost, capacity, leaks)
  local level, wait = capacity, 0
  local function save()
    redis.call('SET', key, whole(level) .. ' ' .. whole(now) .. ' ' .. whole(cost))
    -- Kept until it is full again: then it says no more than its absence.
    if own_clock then
      redis.call('PEXPIRE', key, whole(divide(divide(capacity - level, fill), 1000) + 2))
    end
  end
  local text = read(key, 'GET', key)
  if text then
    local old_level, stamp, old_cost = string.match(text, '^(%d+) (%d+) (%d+)$')
    if old_level then
      level, stamp, old_cost = tonumber(old_level), tonumber(stamp), tonumber(old_cost)
      -- The rate was changed: whole units are kept.
      if old_cost ~= cost then level = divide(level, old_cost) * cost end
      local elapsed = math.min(math.max(now - stamp, 0), divide(capacity, fill) + 1)
      level = math.min(level + elapsed * fill, capacity)
      -- The clock went back: written now, or a refused key would wait for it to catch up.
      if stamp > now then save() end
    end
  end
  return {
    admits = level >= cost,
    take = function()
      if leaks then wait = divide(capacity - level + fill - 1, fill) end
      level = level - cost
      save()
    end,
    left = function() return divide(level, cost) end,
    next = function()
      if level >= capacity then return 0 end
      return divide(cost - math.fmod(level, cost) + fill - 1, fill)
    end,
    wait = function() return wait end,
  }
end

-- Months since the year 0 of a day since 1970, and its day of the month.
local function civil(days)
  local shifted = days + 719468
  local era, of_era = divide(shifted, 146097), math.fmod(shifted, 146097)
  local leaps = divide(of_era, 36524) - divide(of_era, 1460) - divide(of_era, 146096)
  local year = divide(of_era + leaps, 365)
  local of_year = of_era - (365 * year + divide(year, 4) - divide(year, 100))
  local march = divide(5 * of_year + 2, 153)
  local day = of_year - divide(153 * march + 2, 5) + 1
  local month = march < 10 and march + 3 or march - 9
  return (era * 400 + year + (month <= 2 and 1 or 0)) * 12 + month - 1, day
end

-- The month of now, and when the next one begins.
local function month()
  local days = divide(now, 86400000000)
  local index, day = civil(days)
  local beyond = days - day + 32
  local _, over = civil(beyond)
  return index, (beyond - over + 1) * 86400000000
end

local function fixed(key, count, index, ends)
  local used = 0
  local function save()
    redis.call('SET', key, whole(index) .. ' ' .. whole(used))
    if own_clock then
      redis.call('PEXPIRE', key, whole(divide(ends - now, 1000) + 2))
    end
  end
  local text = read(key, 'GET', key)
  if text then
    local old_index, old_used = string.match(text, '^(%d+) (%d+)$')
    if old_index and tonumber(old_index) >= index then
      used = tonumber(old_used)
      -- The clock went back: what was admitted counts in the window of now.
      if tonumber(old_index) > index then save() end
    end
  end
  return {
    admits = used < count,
    take = function()
      used = used + 1
      save()
    end,
    left = function() return math.max(count - used, 0) end,
    next = function()
      if used == 0 then return 0 end
      return ends - now
    end,
  }
end

local function window(key, count, per)
  local oldest = tonumber(read(key, 'LINDEX', key, 0) or nil)
  while oldest and oldest + per <= now do
    redis.call('LPOP', key)
    oldest = tonumber(redis.call('LINDEX', key, 0) or nil)
  end
  -- The clock went back: what lies in the future counts as having happened now.
  local last = -1
  local newest = tonumber(redis.call('LINDEX', key, last) or nil)
  while newest and newest > now do
    redis.call('LSET', key, last, whole(now))
    last = last - 1
    newest = tonumber(redis.call('LINDEX', key, last) or nil)
  end
  if oldest and oldest > now then oldest = now end
  local used = redis.call('LLEN', key)
  return {
    admits = used < count,
    take = function()
      redis.call('RPUSH', key, whole(now))
      if own_clock then redis.call('PEXPIRE', key, whole(divide(per, 1000) + 2)) end
      used = used + 1
      oldest = oldest or now
    end,
    left = function() return math.max(count - used, 0) end,
    next = function() return oldest and math.max(oldest + per - now, 0) or 0 end,
  }
end

local limits, all = {}, true
for i, key in ipairs(KEYS) do
  local at = 4 * i - 2
  local a, b, c = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local kind = ARGV[at]
  if kind == 'b' or kind == 'l' then
    limits[i] = bucket(key, a, b, c, kind == 'l')
  elseif kind == 'f' then
    local index = divide(now, b)
    limits[i] = fixed(key, a, index, (index + 1) * b)
  elseif kind == 'm' then
    limits[i] = fixed(key, a, month())
  else
    limits[i] = window(key, a, b)
  end
  all = all and limits[i].admits
end

local answer = {}
for _, limit in ipairs(limits) do
  if all then limit.take() end
  table.insert(answer, limit.admits and 1 or 0)
  table.insert(answer, limit.left())
  table.insert(answer, limit.next())
  table.insert(answer, limit.wait and limit.wait() or 0)
end
return answer
