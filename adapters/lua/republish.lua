-- Publishes one event again, by an operator's order: the next one of a run of them.
-- KEYS: saga, history, event, outbound list, audit list, run
-- ARGV: place of the event in the run (from 1), event as rebuilt ('' where only a kept one will do),
--       history entry and audit entry, both without their closing brace, most audit entries, ms that
--       the run is remembered
-- Returns OK, DUPLICATE (this place of the run was sent already: its reply was lost), GONE (no event
-- is kept and none rebuilt) or CONFLICT (its saga is not ACKED).
-- Invariants: a place of a run is sent once, and says in the same write who sent it; a kept event
--       goes out byte for byte, whatever was rebuilt.
local saga, history, event, outbound, audit, run = unpack(KEYS)
if tonumber(redis.call('GET', run) or '0') >= tonumber(ARGV[1]) then return 'DUPLICATE' end
local state = redis.call('HGET', saga, 'state')
if state and state ~= 'ACKED' then return 'CONFLICT' end
local bytes, note = redis.call('GET', event), '}'
if not bytes then bytes, note = ARGV[2], ',"note":"rebuilt: its bytes were not kept"}' end
if bytes == '' then return 'GONE' end

local now = clock()
redis.call('SET', run, ARGV[1], 'PX', ARGV[6])
redis.call('LPUSH', outbound, bytes)
-- A history that has expired with its saga must not begin anew: nothing would ever remove it.
if state and redis.call('EXISTS', history) == 1 then record(history, now, ARGV[3] .. note) end
redis.call('RPUSH', audit, '{"at_ms":' .. text(now) .. ',' .. ARGV[4] .. note)
redis.call('LTRIM', audit, -tonumber(ARGV[5]), -1)
return 'OK'
