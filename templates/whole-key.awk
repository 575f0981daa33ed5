# Functions of awk that tell whether a private key is whole, without printing any of it. Awk of POSIX, and no quotes.

# sextet(c): the number that this character of base64 stands for.
function sextet(c) { return index("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", c) - 1 }

# is_base64(text): whether the text is whole base64.
function is_base64(text) { return text != "" && length(text) % 4 == 0 && text ~ /^[A-Za-z0-9+\/]+=?=?$/ }

# decoded(text): the text that this base64 encodes.
function decoded(text,  i, a, b, c, d, out) {
  for (i = 1; i < length(text); i += 4) {
    a = sextet(substr(text, i, 1)); b = sextet(substr(text, i + 1, 1)); c = sextet(substr(text, i + 2, 1)); d = sextet(substr(text, i + 3, 1))
    out = out sprintf("%c", a * 4 + int(b / 16))
    if (c >= 0) out = out sprintf("%c", b % 16 * 16 + int(c / 4))
    if (d >= 0) out = out sprintf("%c", c % 4 * 64 + d)
  }
  return out
}

# is_whole(body): whether the base64 of a block of PEM has the length that it states itself. It begins with its length, by
# the rules of DER.
function is_whole(body,  size, a, b, c, d, e, f) {
  if (!is_base64(body)) return 0
  size = length(body) / 4 * 3 - (body ~ /=$/) - (body ~ /==$/)
  a = sextet(substr(body, 1, 1)); b = sextet(substr(body, 2, 1)); c = sextet(substr(body, 3, 1))
  d = sextet(substr(body, 4, 1)); e = sextet(substr(body, 5, 1)); f = sextet(substr(body, 6, 1))
  if (a * 4 + int(b / 16) != 48) return 0
  b = b % 16 * 16 + int(c / 4); c = c % 4 * 64 + d; d = e * 4 + int(f / 16)
  if (b < 128) return size == 2 + b
  if (b == 129) return size == 3 + c
  return b == 130 && size == 4 + c * 256 + d
}

# The brackets keep this text apart from a key itself.
# key_line(line): reads the next line of a text of PEM. It sets has_key to 1 once a whole private key was among the lines.
function key_line(line) {
  sub(/[ \t\r]+$/, "", line)
  if (line ~ /^-----BEGIN ([A-Z0-9]+ )*PRIVATE [K]EY-----$/) { in_key = 1; key_body = "" }
  else if (line ~ /^-----END ([A-Z0-9]+ )*PRIVATE [K]EY-----$/) { if (in_key && is_whole(key_body)) has_key = 1; in_key = 0; key_body = "" }
  else if (in_key) key_body = key_body line
}

# key_of(text): whether this base64 encodes a text of PEM with a whole private key.
function key_of(text,  n, lines, i) {
  has_key = in_key = 0
  if (!is_base64(text)) return 0
  n = split(decoded(text), lines, "\n")
  for (i = 1; i <= n; i++) key_line(lines[i])
  return has_key
}
