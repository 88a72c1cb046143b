-- struct as far as the scripts need it, for a Redis that lacks it (miniredis, the in-process server of
-- `worker dev` and of the tests: ADR 4). Real Redis has its own. What every check reads and writes is packed
-- with it: it takes a fraction of the time of MessagePack.
--
-- Of its formats: > big-endian, B a byte, I<n> and i<n> an integer of n bytes, c0 a text behind its length.
local struct = rawget(_G, 'struct') or (function()
  local char, byte, sub, floor = string.char, string.byte, string.sub, math.floor

  local function each_item(format, visit)
    for kind, size in string.gmatch(format, '([BIic])(%d*)') do visit(kind, kind == 'B' and 1 or tonumber(size)) end
  end
  local function bytes_of(n, size)
    local out = {}
    for i = size, 1, -1 do
      out[i] = char(n % 256)
      n = floor(n / 256)
    end
    return table.concat(out)
  end
  local function number_at(text, at, size, signed)
    local negative = signed and byte(text, at) >= 128
    local n = 0
    for i = at, at + size - 1 do -- a negative one is counted down from -1, so that no step leaves 2^53
      n = n * 256 + (negative and 255 - byte(text, i) or byte(text, i))
    end
    return negative and -1 - n or n
  end
  local function negative_bytes(n, size) return (string.gsub(bytes_of(-1 - n, size), '.', function(c) return char(255 - byte(c)) end)) end

  return {
    pack = function(format, ...)
      local values, n, out = { ... }, 0, {}
      each_item(format, function(kind, size)
        n = n + 1
        local value = values[n]
        out[n] = kind == 'c' and value or value < 0 and negative_bytes(value, size) or bytes_of(value, size)
      end)
      return table.concat(out)
    end,
    unpack = function(format, text, at)
      local values, n = {}, 0
      at = at or 1
      each_item(format, function(kind, size)
        if at + (kind == 'c' and values[n] or size) - 1 > #text then error('data string too short') end
        if kind == 'c' then
          local length = values[n]
          values[n], at = sub(text, at, at + length - 1), at + length
        else
          n = n + 1
          values[n], at = number_at(text, at, size, kind == 'i'), at + size
        end
      end)
      values[n + 1] = at
      return unpack(values, 1, n + 1)
    end,
  }
end)()
local struct_pack, struct_unpack = struct.pack, struct.unpack
