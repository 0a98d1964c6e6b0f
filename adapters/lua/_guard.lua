-- Put before every other script by adapters/redis_client.py.
-- A write is accepted only from the holder of the lease, at the version that it has read.
-- Time is the server's: milliseconds since 1970, as a string without exponent.

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Returns nil when the caller may write, else the answer to give it: GONE, DUPLICATE (our own
-- write, sent again after its reply was lost), FENCED or CONFLICT.
local function refusal(saga, owner, fence, version)
  local held = redis.call('HMGET', saga, 'state', 'owner', 'fence', 'version', 'op')
  if not held[1] then return 'GONE' end
  if held[5] == owner .. ':' .. version then return 'DUPLICATE' end
  -- An empty owner is nobody, also where nobody holds the saga.
  if owner == '' or held[2] ~= owner or held[3] ~= fence then return 'FENCED' end
  if held[4] ~= version then return 'CONFLICT' end
  return nil
end

-- Marks one accepted write: the next version, and the operation by which its retry is known.
local function accept(saga, owner, version, now)
  redis.call('HSET', saga, 'version', text(tonumber(version) + 1),
    'op', owner .. ':' .. version, 'updated_ms', text(now))
end

-- `entry` is a JSON object without its opening brace; the server's time is put in front.
local function record(history, now, entry)
  redis.call('RPUSH', history, '{"at_ms":' .. text(now) .. ',' .. entry)
  redis.call('LTRIM', history, -500, -1)
end
