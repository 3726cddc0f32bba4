-- Remembers bundles that were given out, and travel elsewhere or later.
--
-- ARGV  for each bundle: its name in hex, the number of its jobs, its due time (may be empty), milliseconds for which it
--       is remembered
-- Returns how many were not known before.
--
-- Invariant: a bundle's size and due time are written once. Running it again changes nothing.

local fresh = 0
for at = 1, #ARGV, 4 do
  if remember(P .. 'r:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], 'a') then fresh = fresh + 1 end
end
return fresh
