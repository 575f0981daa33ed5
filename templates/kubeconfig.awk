# Prints the parts of a kubeconfig that are not secret. Sent after whole-key.awk.
{ sub(/^ *- /, "  ") }
/^ *(server|certificate-authority-data|client-certificate-data|client-certificate|client-key|current-context|namespace|name|tls-server-name|insecure-skip-tls-verify): / {
  value = $2; gsub(/["\047]/, "", value)
  print FILENAME, substr($1, 1, length($1) - 1), value
}
/^ *client-key-data:/ { print FILENAME, "client-key-data", key_of($2) ? "whole" : "broken" }
/^ *(proxy-url|token|tokenFile|username|password|exec|auth-provider|as|as-uid|as-groups):/ {
  print FILENAME, substr($1, 1, index($1, ":") - 1), "set"
}
