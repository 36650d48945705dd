"""The scripts by which events are written: each runs whole on the server, so that an event is in all keys or in none.

Types are checked before any write, because a script that fails half-way is not undone. A key of the user that holds
another type is not this service's, and is replaced.
"""

# KEYS: history, record, list of entries, marks, notes, types; stream and account, but in a Cluster. ARGV: how many
# events, marks and notes are kept, life of the history in s, of the notes, entries kept in the stream, its oldest entry
# and the mark in the list (both only in a Cluster), then for each event the place of its shelf among KEYS, score,
# member, type and stream entry. In a Cluster the id of the entry stands where the entry would, and nothing for an event
# that was not written to the stream.
_SHELVES = """
local kinds = {'zset', false, 'list', 'zset', 'zset', 'hash', false, 'hash'}
for place, right in ipairs(kinds) do
  local kind = right and KEYS[place] and redis.call('TYPE', KEYS[place]).ok
  if kind and kind ~= 'none' and kind ~= right then redis.call('DEL', KEYS[place]) end
end
local function keep(shelf, score, member, type)
  if redis.call('ZADD', shelf, 'NX', score, member) == 0 then return 0 end
  if redis.call('ZREVRANK', shelf, member) >= tonumber(ARGV[1]) then
    redis.call('ZREM', shelf, member)
    return -1
  end
  if type ~= '' then redis.call('HSET', KEYS[6], member, type) end
  return 1
end
local function finish()
  for _, shelf in ipairs({KEYS[1], KEYS[4], KEYS[5]}) do
    local dropped = redis.call('ZRANGE', shelf, 0, -1 - ARGV[1])
    for first = 1, #dropped, 1000 do
      local some = {unpack(dropped, first, math.min(first + 999, #dropped))}
      redis.call('ZREM', shelf, unpack(some))
      if shelf ~= KEYS[5] then redis.call('HDEL', KEYS[6], unpack(some)) end
    end
  end
  for _, place in ipairs({1, 3, 4, 6}) do redis.call('EXPIRE', KEYS[place], ARGV[2]) end
end
"""
APPEND = (
    """
local function is_before(a, b)
  local a_ms, a_n, b_ms, b_n = a:match('(%d+)-(%d+)')
  b_ms, b_n = b:match('(%d+)-(%d+)')
  if not (a_ms and b_ms) then return false end
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_n) < tonumber(b_n))
end
local kind = KEYS[7] and redis.call('TYPE', KEYS[7]).ok or 'none'
if kind ~= 'none' and kind ~= 'stream' then return redis.error_reply('WRONGTYPE the event stream is a ' .. kind) end
"""
    + _SHELVES
    + """
local kept, token, oldest, n_written, is_noted = {}, nil, ARGV[5], 0, false
for i = 7, #ARGV, 5 do
  local result, shelf = 0, tonumber(ARGV[i])
  if KEYS[7] or ARGV[i + 4] ~= '' then
    result = keep(KEYS[shelf], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    local id = not KEYS[7] and ARGV[i + 4]
    if KEYS[7] and result == 1 then
      id = redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[i + 4])
    end
    if id then
      redis.call('RPUSH', KEYS[3], id)
      n_written = n_written + 1
    end
    if result == 1 and shelf == 5 then is_noted = true end
    if result == 1 and shelf ~= 5 then token = id end
  end
  kept[#kept + 1] = result
end
if KEYS[7] and n_written > 0 then
  redis.pcall('HINCRBY', KEYS[8], 'counted', n_written)
  local life = redis.pcall('HGET', KEYS[8], 'life')
  if not (tonumber(life) and tonumber(life) <= tonumber(ARGV[2])) then redis.pcall('HSET', KEYS[8], 'life', ARGV[2]) end
  oldest = redis.call('XRANGE', KEYS[7], '-', '+', 'COUNT', 1)[1][1]
end
if ARGV[6] ~= '' then redis.call('LREM', KEYS[3], 0, ARGV[6]) end
for _ = 0, 2 * n_written do
  local head = redis.call('LINDEX', KEYS[3], 0)
  if not (head and is_before(head, oldest)) then break end
  redis.call('LPOP', KEYS[3])
end
if token then redis.call('SET', KEYS[2], 'x' .. token, 'EX', 3600) end
finish()
if is_noted then redis.call('EXPIRE', KEYS[5], ARGV[3]) end
return kept
"""
)
# KEYS: stream, account. ARGV: life of a list in s, entries kept in the stream, entries. Returns the oldest entry's id,
# and the new entries'.
WRITE_STREAM = """
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'hash' then redis.call('DEL', KEYS[2]) end
local ids = {}
for i = 3, #ARGV do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[i])
end
redis.pcall('HINCRBY', KEYS[2], 'counted', #ids)
local life = redis.pcall('HGET', KEYS[2], 'life')
if not (tonumber(life) and tonumber(life) <= tonumber(ARGV[1])) then redis.pcall('HSET', KEYS[2], 'life', ARGV[1]) end
table.insert(ids, 1, redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1])
return ids
"""
# KEYS: history, record, list of entries, marks, notes, types. ARGV: how many events and marks are kept, life of the
# history in s, then for each event the place of its shelf among KEYS, score, member and type.
LOAD = (
    _SHELVES
    + """
local n_new = 0
for i = 3, #ARGV, 4 do
  if keep(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) == 1 then n_new = n_new + 1 end
end
finish()
redis.call('DEL', KEYS[2])
return n_new
"""
)
