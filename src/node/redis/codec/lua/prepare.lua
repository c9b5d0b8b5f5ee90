-- PREPARE: promise a ballot for the view that follows the one served.
-- KEYS: id, member. ARGV: view, ballot, incarnation, mark.
-- Replies {mark, answer}: {ballot, view, document, 'accepted'} of what was
-- accepted before, each '' for nothing; the higher ballot that was promised; or,
-- where another view is served or the incarnation differs, as STATUS does.
local member = redis.call('HMGET', KEYS[2], 'nonce', 'inc', 'promised', 'ballot', 'next', 'next_doc')
local serving = redis.call('GET', KEYS[1]) or ''
if serving ~= ARGV[1] or member[2] ~= ARGV[3] then
  return { ARGV[#ARGV], { serving, member[1] or '', member[2] or '' } }
end
if member[3] and member[3] > ARGV[2] then return { ARGV[#ARGV], member[3] } end
redis.call('HSET', KEYS[2], 'promised', ARGV[2])
return { ARGV[#ARGV], { member[4] or '', member[5] or '', member[6] or '', 'accepted' } }
