-- RESTAMP: carry the state over to a new incarnation of a durable server.
-- KEYS: id, member. ARGV: expected incarnation, new one, mark. Replies
-- {mark, answer}: 1; where it is not as expected, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc')
if member[2] ~= ARGV[1] then
  return { ARGV[#ARGV], { redis.call('GET', KEYS[1]) or '', member[1] or '', member[2] or '' } }
end
redis.call('HSET', KEYS[2], 'inc', ARGV[2])
return { ARGV[#ARGV], 1 }
