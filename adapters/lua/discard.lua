-- Gives a dead-lettered saga up, by an operator's order.
-- KEYS: saga, history, dead-letter list
-- ARGV: version seen, operation id, dead letter, when it failed as that says ('' for unknown), reason,
--       history entry
-- Returns OK, GONE or CONFLICT (it has moved since it was read, is discarded already, or has failed
-- again since, with another letter).
-- Sent again after its reply was lost it finds its operation id, and answers OK.
-- Invariant: the dead letter leaves the list in the write that marks its saga, which stays
-- DEAD_LETTERED with its message.
local saga, history, letters = unpack(KEYS)
local held = redis.call('HMGET', saga, 'state', 'version', 'op', 'discarded', 'failed_at')
if not held[1] then return 'GONE' end
if held[3] == ARGV[2] then return 'OK' end
if held[1] ~= 'DEAD_LETTERED' or held[2] ~= ARGV[1] or held[4] then return 'CONFLICT' end
if (held[5] or '') ~= ARGV[4] then return 'CONFLICT' end
local now = clock()
redis.call('HSET', saga, 'discarded', ARGV[5], 'version', text(held[2] + 1), 'op', ARGV[2],
  'updated_ms', text(now))
redis.call('LREM', letters, -1, ARGV[3])
record(history, now, ARGV[6])
return 'OK'
