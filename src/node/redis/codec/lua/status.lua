-- STATUS. KEYS: id, member. ARGV: mark. Replies {mark, {view served, nonce,
-- incarnation stamped}}, each '' where it is not there.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc')
return { ARGV[#ARGV], { redis.call('GET', KEYS[1]) or '', member[1] or '', member[2] or '' } }
