-- ACCEPT: accept a view as the one that follows the one served.
-- KEYS: id, member. ARGV: view, ballot, next view, its document, incarnation, mark.
-- Replies {mark, answer}: 1; the higher ballot that was promised; or, where
-- another view is served or the incarnation differs, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc', 'promised')
local serving = redis.call('GET', KEYS[1]) or ''
if serving ~= ARGV[1] or member[2] ~= ARGV[5] then
  return { ARGV[#ARGV], { serving, member[1] or '', member[2] or '' } }
end
if member[3] and member[3] > ARGV[2] then return { ARGV[#ARGV], member[3] } end
redis.call('HSET', KEYS[2], 'promised', ARGV[2], 'ballot', ARGV[2], 'next', ARGV[3], 'next_doc', ARGV[4])
return { ARGV[#ARGV], 1 }
