-- Puts a dead-lettered or waiting saga back to work, by an operator's order.
-- KEYS: saga, history, due, index DEAD_LETTERED, index of the state resumed to, processing list,
--       dead-letter list, operation
-- ARGV: saga id, version seen, state seen, state resumed to, dead letter ('' for none), when the failure
--       that is meant was ('' for unknown), how long the operation is known (ms), history entry
-- Returns OK, LEASED (a worker is on it right now), GONE or CONFLICT (it has moved since it was read,
-- or there is nothing to resume to: it is finished, or active in another state; or it has failed again
-- since the failure that is meant).
-- Sent again after its reply was lost it finds its operation, and answers OK, wherever the saga is by now.
-- Invariant: the message is back in the processing list in the same write that makes it active.
local saga, history, due, dead, to, processing, letters, operation = unpack(KEYS)
if redis.call('EXISTS', operation) == 1 then return 'OK' end
local id = ARGV[1]
local held = redis.call('HMGET', saga, 'state', 'version', 'owner', 'message', 'failed_at')
if not held[1] then return 'GONE' end
if held[1] ~= ARGV[3] or held[2] ~= ARGV[2] then return 'CONFLICT' end
if held[1] == 'ACKED' or held[1] == 'SKIPPED' then return 'CONFLICT' end
if held[1] ~= 'DEAD_LETTERED' and held[1] ~= ARGV[4] then return 'CONFLICT' end
if held[1] == 'DEAD_LETTERED' and (held[5] or '') ~= ARGV[6] then return 'CONFLICT' end
local now = clock()
if held[1] ~= 'DEAD_LETTERED' then
  local lease = redis.call('ZSCORE', due, id)
  if held[3] ~= '' and lease and tonumber(lease) > now then return 'LEASED' end
end
redis.call('HSET', saga, 'state', ARGV[4], 'version', text(held[2] + 1), 'owner', '',
  'attempts', '0', 'takeovers', '0', 'crashes', '0', 'updated_ms', text(now))
redis.call('HINCRBY', saga, 'fence', 1)
redis.call('HDEL', saga, 'error', 'error_class', 'failed_in', 'failed_at', 'conflicts_with',
  'discarded', 'op')
if held[1] == 'DEAD_LETTERED' then
  if ARGV[4] == 'RECEIVED' then redis.call('HDEL', saga, 'claim') end
  redis.call('ZREM', dead, id)
  redis.call('ZADD', to, now, id)
  -- Many are resumed oldest first: each letter is found at its end of the list, not behind all.
  if ARGV[5] ~= '' then redis.call('LREM', letters, -1, ARGV[5]) end
  -- A copy that came meanwhile is at the left. One further in is found by the sweep: a duplicate.
  if not redis.call('LPOS', processing, held[4], 'MAXLEN', 500) then
    redis.call('LPUSH', processing, held[4])
  end
end
redis.call('ZADD', due, now, id)
record(history, now, ARGV[8])
redis.call('SET', operation, 'OK', 'PX', ARGV[7])
return 'OK'
