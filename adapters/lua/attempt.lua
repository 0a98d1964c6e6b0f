-- Stores one more signed transaction for a nonce that is out, before it is sent: a fee bump, the
-- filling of a hole, a cancellation.
-- KEYS: lane, record of the nonce, history of its saga (the lane again where there is none)
-- ARGV: keeper ('' for an operator's command), fence, attempts seen, hash, attempt, nonce,
--       history entry ('' for none), ms to keep a record that belongs to no saga
-- Returns OK, DUPLICATE (our own write, sent again after its reply was lost), FENCED, or STALE (the
-- record has changed since it was read, or the lane never gave this nonce).
-- Invariant: an attempt is never removed or overwritten while its nonce is out.
local lane, slot, history = unpack(KEYS)
local keeper, fence, seen, hash = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = clock()
if redis.call('HGET', slot, 'op') == hash then return 'DUPLICATE' end
if keeper ~= '' then
  local held = redis.call('HMGET', lane, 'keeper', 'keeper_fence', 'keeper_until')
  if held[1] ~= keeper or held[2] ~= fence or tonumber(held[3]) <= now then return 'FENCED' end
end
local next = redis.call('HGET', lane, 'next')
if not next or tonumber(ARGV[6]) >= tonumber(next) then return 'STALE' end
local n = tonumber(redis.call('HGET', slot, 'n') or '0')
if n ~= seen then return 'STALE' end
if n == 0 then redis.call('HSET', slot, 'saga', '', 'step', 'fill', 'cost_gas', '0') end
redis.call('HSET', slot, 'n', text(n + 1), 'at_ms', text(now), 'op', hash, 'a' .. text(n), ARGV[5])
if redis.call('HGET', slot, 'saga') == '' then redis.call('PEXPIRE', slot, ARGV[8]) end
if ARGV[7] ~= '' then record(history, now, ARGV[7]) end
return 'OK'
