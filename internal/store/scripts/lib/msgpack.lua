-- cmsgpack as far as the scripts need it, for a Redis that lacks it (miniredis, the in-process server
-- of `worker dev` and of the tests: ADR 4). Real Redis has its own.
local cmsgpack = rawget(_G, 'cmsgpack') or (function()
  local char, byte, sub, floor = string.char, string.byte, string.sub, math.floor

  local function big_endian(n, bytes)
    local out = {}
    for i = bytes, 1, -1 do
      out[i] = char(n % 256)
      n = floor(n / 256)
    end
    return table.concat(out)
  end

  local function encode(value, out)
    local kind = type(value)
    if kind == 'number' then
      if value >= 0 and value < 128 then
        out[#out + 1] = char(value)
      elseif value >= 0 then
        out[#out + 1] = '\207' .. big_endian(value, 8)
      else -- two's complement, by way of the distance to the top
        out[#out + 1] = '\211' .. big_endian(-1 - value, 8):gsub('.', function(c) return char(255 - byte(c)) end)
      end
    elseif kind == 'string' then
      out[#out + 1] = '\219' .. big_endian(#value, 4)
      out[#out + 1] = value
    elseif kind == 'table' then
      out[#out + 1] = '\221' .. big_endian(#value, 4)
      for i = 1, #value do encode(value[i], out) end
    elseif kind == 'boolean' then
      out[#out + 1] = value and '\195' or '\194'
    else
      error('msgpack: cannot encode a ' .. kind)
    end
  end

  local decode
  local function number(s, at, bytes)
    local n = 0
    for i = at, at + bytes - 1 do n = n * 256 + byte(s, i) end
    return n
  end
  local function integer(s, at, bytes)
    local n = number(s, at, bytes)
    if byte(s, at) >= 128 then -- negative: count down from -1, so that no step leaves 2^53
      n = 0
      for i = at, at + bytes - 1 do n = n * 256 + 255 - byte(s, i) end
      n = -1 - n
    end
    return n, at + bytes
  end
  local function text(s, at, length) return sub(s, at, at + length - 1), at + length end
  local function array(s, at, length)
    local t = {}
    for i = 1, length do t[i], at = decode(s, at) end
    return t, at
  end
  decode = function(s, at)
    local tag = byte(s, at)
    at = at + 1
    if tag < 128 then return tag, at end
    if tag >= 224 then return tag - 256, at end
    if tag >= 160 and tag < 192 then return text(s, at, tag - 160) end
    if tag >= 144 and tag < 160 then return array(s, at, tag - 144) end
    if tag == 194 or tag == 195 then return tag == 195, at end
    if tag >= 204 and tag <= 207 then
      local bytes = 2 ^ (tag - 204)
      return number(s, at, bytes), at + bytes
    end
    if tag >= 208 and tag <= 211 then return integer(s, at, 2 ^ (tag - 208)) end
    if tag >= 217 and tag <= 219 then
      local bytes = 2 ^ (tag - 217)
      return text(s, at + bytes, number(s, at, bytes))
    end
    if tag >= 196 and tag <= 198 then
      local bytes = 2 ^ (tag - 196)
      return text(s, at + bytes, number(s, at, bytes))
    end
    if tag == 220 then return array(s, at + 2, number(s, at, 2)) end
    if tag == 221 then return array(s, at + 4, number(s, at, 4)) end
    error('msgpack: unexpected tag ' .. tag)
  end

  -- Pieces joined, some at a time: miniredis's table.concat has room for some thousand.
  local function join(pieces)
    while #pieces > 1 do
      local longer = {}
      for from = 1, #pieces, 1000 do longer[#longer + 1] = table.concat(pieces, '', from, math.min(#pieces, from + 999)) end
      pieces = longer
    end
    return pieces[1]
  end

  return {
    pack = function(value)
      local out = {}
      encode(value, out)
      return join(out)
    end,
    unpack = function(text) return (decode(text, 1)) end,
  }
end)()

-- The text that a list is packed in, and the list again. (A global costs a look-up whenever it is used; and
-- one list is packed faster than many values.)
local text_of, values_of = cmsgpack.pack, cmsgpack.unpack
local unpack = unpack
