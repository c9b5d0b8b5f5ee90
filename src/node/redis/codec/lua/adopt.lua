-- ADOPT: serve a decided view, if nonce and incarnation are as it lists them.
-- KEYS: id, member, counters. ARGV: epoch, view, document, nonce,
-- incarnation, mark.
-- Replies {mark, answer}: 1 (done, or as new a view is served already); where
-- refused, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc', 'epoch')
if member[1] ~= ARGV[4] or member[2] ~= ARGV[5] then
  return { ARGV[#ARGV], { redis.call('GET', KEYS[1]) or '', member[1] or '', member[2] or '' } }
end
if tonumber(member[3] or -1) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'doc', ARGV[3])
  redis.call('HDEL', KEYS[2], 'since', 'promised', 'ballot', 'next', 'next_doc')
  -- Counters start afresh: the epoch leads the fence.
  redis.call('DEL', KEYS[3])
  redis.call('SET', KEYS[1], ARGV[2])
end
return { ARGV[#ARGV], 1 }
