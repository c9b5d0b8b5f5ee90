-- QUARANTINE: compare-and-set of the nonce; the node then serves nothing.
-- KEYS: id, member, counters. ARGV: expected nonce ('' for none), expected
-- view ('' for none), new nonce, incarnation, mark. Replies {mark, answer}: 1;
-- or, where it is not as expected, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc')
local nonce, serving = member[1] or '', redis.call('GET', KEYS[1]) or ''
if nonce ~= ARGV[1] or serving ~= ARGV[2] then
  return { ARGV[#ARGV], { serving, nonce, member[2] or '' } }
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'nonce', ARGV[3], 'inc', ARGV[4])
return { ARGV[#ARGV], 1 }
