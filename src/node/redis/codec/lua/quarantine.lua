-- QUARANTINE: compare-and-set of the nonce; the node then serves nothing. It
-- remembers the highest epoch that it has served, and since when it has been
-- quarantined, under whatever nonces.
-- KEYS: id, member, counters. ARGV: expected nonce ('' for none), expected
-- view ('' for none), new nonce, incarnation, mark. Replies {mark, answer}: 1;
-- or, where it is not as expected, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc', 'epoch', 'past', 'since')
local nonce, serving = member[1] or '', redis.call('GET', KEYS[1]) or ''
if nonce ~= ARGV[1] or serving ~= ARGV[2] then
  return { ARGV[#ARGV], { serving, nonce, member[2] or '' } }
end
local since = member[5]
-- `epoch` is there from ADOPT to QUARANTINE.
if not since or serving ~= '' or member[3] or member[2] ~= ARGV[4] then
  local time = redis.call('TIME')
  since = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end
local past = math.max(tonumber(member[3] or 0) or 0, tonumber(member[4] or 0) or 0)
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'nonce', ARGV[3], 'inc', ARGV[4], 'since', since)
if past > 0 then redis.call('HSET', KEYS[2], 'past', string.format('%.0f', past)) end
return { ARGV[#ARGV], 1 }
