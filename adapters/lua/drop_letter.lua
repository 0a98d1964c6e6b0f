-- Takes an entry that no saga waits with out of the dead-letter list, by an operator's order.
-- KEYS: dead-letter list, saga, audit list, operation
-- ARGV: entry, '1' when it must have a saga, when that failed as the entry says ('' for unknown),
--       audit entry, most audit entries, how long the operation is known (ms)
-- Returns OK, MISSING (no such entry), GONE (no saga: the entry may be all that is left of the
-- message) or CONFLICT (the saga waits with this very entry).
-- Of entries of the same bytes one is dropped, the oldest. Sent again after its reply was lost it finds
-- its operation, and answers OK.
-- Invariant: an entry of ours goes only while its saga is there and has another fate, or when the
-- caller knows that nothing is left; the audit list says so in the same write.
local letters, saga, audit, operation = unpack(KEYS)
if redis.call('EXISTS', operation) == 1 then return 'OK' end
if ARGV[2] == '1' then
  local held = redis.call('HMGET', saga, 'state', 'failed_at', 'discarded')
  if not held[1] then return 'GONE' end
  local waits = held[1] == 'DEAD_LETTERED' and not held[3]
  if waits and (held[2] or '') == ARGV[3] then return 'CONFLICT' end
end
if not redis.call('LPOS', letters, ARGV[1], 'RANK', -1) then return 'MISSING' end
redis.call('RPUSH', audit, '{"at_ms":' .. text(clock()) .. ',' .. ARGV[4])
redis.call('LTRIM', audit, -tonumber(ARGV[5]), -1)
redis.call('LREM', letters, -1, ARGV[1])
redis.call('SET', operation, 'OK', 'PX', ARGV[6])
return 'OK'
