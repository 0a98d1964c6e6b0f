-- Puts the message of a dead letter that has no saga back on the inbound list.
-- KEYS: dead-letter list, inbound list, audit list, saga, its event, operation
-- ARGV: entry, message, audit entry, audit entry of one that is complete, most audit entries,
--       how long the operation is known (ms)
-- Returns OK, MISSING (no such entry: replayed or discarded already) or COMPLETE (its saga is gone, but
-- its event was published: the entry is only taken out).
-- Sent again after its reply was lost it finds its operation, and gives the same answer. Of entries of
-- the same bytes one is moved, the oldest.
-- Invariant: the message is never in neither list unless its event was published. The pushes are first:
-- they are what a server without memory refuses, and then nothing has been removed.
local letters, inbound, audit, saga, event, operation = unpack(KEYS)
local answered = redis.call('GET', operation)
if answered then return answered end
if not redis.call('LPOS', letters, ARGV[1], 'RANK', -1) then return 'MISSING' end
local answer, line = 'OK', ARGV[3]
if redis.call('EXISTS', saga) == 0 and redis.call('EXISTS', event) == 1 then
  answer, line = 'COMPLETE', ARGV[4]
else
  redis.call('LPUSH', inbound, ARGV[2])
end
redis.call('RPUSH', audit, '{"at_ms":' .. text(clock()) .. ',' .. line)
redis.call('LTRIM', audit, -tonumber(ARGV[5]), -1)
redis.call('LREM', letters, -1, ARGV[1])
redis.call('SET', operation, answer, 'PX', ARGV[6])
return answer
