-- Prolongs, or gives up, the leases that a worker holds.
-- KEYS: due
-- ARGV: lease ms (0: give up, anybody may take the saga at once), key prefix of sagas,
--       then triples of saga id, owner, fence
-- Returns the ids that somebody else holds by now, or that are gone. What nobody holds has been given
-- up by its own last write, whose answer may be on its way still.
-- Invariant: never touches a saga that somebody else holds.
local due, lease, prefix = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local now = clock()
local lost = {}
for i = 3, #ARGV, 3 do
  local saga = prefix .. ARGV[i]
  local held = redis.call('HMGET', saga, 'owner', 'fence')
  if ARGV[i + 1] == '' or held[1] ~= ARGV[i + 1] or held[2] ~= ARGV[i + 2] then
    if ARGV[i + 1] == '' or held[1] ~= '' then lost[#lost + 1] = ARGV[i] end
  else
    if lease == 0 then redis.call('HSET', saga, 'owner', '') end
    redis.call('ZADD', due, 'XX', now + lease, ARGV[i])
  end
end
return lost
