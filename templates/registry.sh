# Shell functions that ask a registry for the manifest of an image, as containerd does. Sent with the ask that needs them. $d
# is a folder for root alone, and the ask deletes it. The caller sets for each image:
#   registry_at     the beginning of the names of its files, below $d
#   registry_image  the image, for the answer
# and defines, for a SITE such as https://registry.example.com:5000,
#   registry_user SITE TLS  prints USER:PASSWORD of a site that has a login; fails where the login is for another scheme or TLS
#   registry_tls_of SITE    prints the TLS of a site
# The output of both never appears in command lines. A registry chooses where it redirects to, and which service issues its
# tokens. So a login is sent only to the site of the inventory, or by verified TLS to the token service that the registry
# names.

# registry_is_url TEXT: succeeds if TEXT is a URL without characters that have a meaning in lines, shells or terminals.
registry_is_url() {
  [ ${#1} -le 4096 ] && printf '%s\n' "$1" | LC_ALL=C grep -Eq \
    '^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][]A-Za-z0-9._~:/?@!$&()*+,;=%[-]*)?$'
}

# registry_site_of URL: prints the scheme and the host of the URL.
registry_site_of() {
  registry_x=${1#*://}
  printf '%s\n' "${1%%://*}://${registry_x%%[/?]*}"
}

# registry_get METHOD URL TLS AUTH: sends a request. It writes the answer, with its headers, to $registry_at, and sets
# $registry_status to the HTTP status. TLS is `check`, `any`, or a file of further CAs that are trusted. AUTH is the value of
# the Authorization header, or nothing. It keeps 64 KiB of an answer, without control characters.
registry_get() {
  registry_rest=${2#*://}
  registry_host=${registry_rest%%[/?]*}
  registry_path=${registry_rest#"$registry_host"}
  case $registry_path in /*) ;; *) registry_path=/$registry_path ;; esac
  case $registry_host in
    *\]:* | [!\[]*:*) registry_name=${registry_host%:*} registry_port=${registry_host##*:} ;;
    *) registry_name=$registry_host registry_port=443; case $2 in http:*) registry_port=80 ;; esac ;;
  esac
  {
    printf '%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ironstrap\r\nConnection: close\r\n' "$1" "$registry_path" "$registry_host"
    printf 'Accept: %s, %s, %s, %s, */*\r\n' application/vnd.docker.distribution.manifest.v2+json \
      application/vnd.docker.distribution.manifest.list.v2+json application/vnd.oci.image.manifest.v1+json \
      application/vnd.oci.image.index.v1+json
    [ -z "$4" ] || printf 'Authorization: %s\r\n' "$4"
    printf '\r\n'
  } >"$registry_at.request"
  registry_bare=${registry_name#\[}
  registry_bare=${registry_bare%\]}
  case $2 in
    http:*)
      timeout 6 bash -c 'exec 3<>"/dev/tcp/$0/$1" && cat >&3 && cat <&3' "$registry_bare" "$registry_port" \
        <"$registry_at.request" 2>"$registry_at.errors" | registry_part >"$registry_at"
      ;;
    *)
      set -- "$3"
      case $registry_bare in
        *[!0-9.]*) case $registry_bare in *:*) set -- "$1" -verify_ip "$registry_bare" ;; *) set -- "$1" -verify_hostname "$registry_bare" -servername "$registry_bare" ;; esac ;;
        *) set -- "$1" -verify_ip "$registry_bare" ;;
      esac
      case $1 in
        any) shift 3 ;;
        check) shift; set -- -verify_return_error "$@" ;;
        *) registry_ca=$1; shift; set -- -verify_return_error -CAfile "$registry_ca" -CApath /etc/ssl/certs "$@" ;;
      esac
      {
        timeout 6 openssl s_client -quiet -connect "$registry_name:$registry_port" "$@" <"$registry_at.request" 2>&1 >&3 |
          registry_part >"$registry_at.errors"
      } 3>&1 | registry_part >"$registry_at"
      ;;
  esac
  rm -f "$registry_at.request"
  registry_status=$(sed -n '1s/^HTTP[^ ]* \([0-9]\{3\}\).*/\1/p' "$registry_at")
}

# registry_part: prints the first 64 KiB of standard input, without control characters except tabs and line breaks.
registry_part() {
  head -c 65536 | LC_ALL=C tr -d '\000-\010\013-\037\177'
}

# registry_header NAME: prints the values of that header in the answer, one line each. NAME is in lower case.
registry_header() {
  awk -v name="$1" '$0 == "" { exit }
    { i = index($0, ":"); v = substr($0, i + 1); sub(/^ +/, "", v); if (tolower(substr($0, 1, i - 1)) == name) print v }' "$registry_at"
}

# registry_says WORD URL MORE: prints a line of the answer. It cuts a URL at its first ?, because the rest may grant access
# to the URL.
registry_says() {
  printf '%s\n' "manifest $registry_image $1 ${2%%\?*} $3"
}

# registry_token CHALLENGE NAME: asks the token service that CHALLENGE names, and sets $registry_auth for the next request.
# NAME is the repository to ask for, in case the challenge names none.
registry_token() {
  registry_of() { printf '%s\n' "$registry_challenge" | sed -n "s/.*[ ,]$1=\"\([^\"]*\)\".*/\1/p"; }
  registry_challenge=$1
  registry_realm=$(registry_of realm) registry_service=$(registry_of service) registry_scope=$(registry_of scope)
  registry_query="service=$registry_service&scope=${registry_scope:-repository:$2:pull}"
  registry_query=$(printf '%s' "$registry_query" | sed 's/ /%20/g')
  case $registry_realm in *\?*) registry_realm="$registry_realm&$registry_query" ;; *) registry_realm="$registry_realm?$registry_query" ;; esac
  registry_is_url "$registry_realm" || { registry_says odd "$registry_url" 'it names an invalid URL of a token service'; return 1; }
  registry_there=$(registry_site_of "$registry_realm") registry_look=$registry_tls
  if [ "$registry_there" != "$registry_site" ]; then
    registry_look=$(registry_tls_of "$registry_there")
    case ${registry_basic:+login}/$registry_there/$registry_look in
      login/http:* | login/*/any)
        registry_says odd "$registry_url" "its token service is $registry_there, and a login is not sent to another host without verified TLS"
        return 1
        ;;
    esac
  fi
  registry_get GET "$registry_realm" "$registry_look" "${registry_basic:+Basic $registry_basic}"
  case $registry_status in
    200) ;;
    401 | 403)
      if [ -n "$registry_basic" ]; then registry_says password "$registry_url" "${registry_realm%%\?*}"; else registry_says login "$registry_url" "$registry_status"; fi
      return 1
      ;;
    *) registry_says odd "$registry_realm" "$(registry_why)"; return 1 ;;
  esac
  # A chunked body has lines with the lengths of the chunks in between.
  registry_auth=$(sed '1,/^$/d' "$registry_at" | grep -vix '[0-9a-f]*' | tr -d '\n' |
    grep -o '"\(access_\)\{0,1\}token" *: *"[^"\\]*"' | sed -n '1s/.*"\([^"]*\)"$/Bearer \1/p')
  [ -n "$registry_auth" ] || { registry_says odd "$registry_realm" 'the answer has no token'; return 1; }
}

# registry_why: prints why the last request has no good answer.
registry_why() {
  if [ -n "$registry_status" ]; then printf '%s\n' "HTTP status $registry_status"; return 0; fi
  registry_x=$(sed -n 's/^verify error:num=[0-9]*:/certificate: /p' "$registry_at.errors" | head -n 1 | cut -c 1-200)
  [ -n "$registry_x" ] || registry_x=$(head -n 1 "$registry_at.errors" |
    sed 's/^[0-9A-F]*:error:[^:]*:[^:]*:[^:]*:\([^:]*\):.*/\1/' | cut -c 1-200)
  printf '%s\n' "${registry_x:-no answer}"
}

# registry_manifest URL NAME TLS: succeeds if the registry has the manifest at URL, of the repository NAME. Otherwise it
# prints why not, and fails.
registry_manifest() {
  command -v bash >/dev/null || { registry_says untold "$1" 'bash is not installed'; return 1; }
  case $1 in https:*) command -v openssl >/dev/null || { registry_says untold "$1" 'openssl is not installed'; return 1; } ;; esac
  registry_url=$1 registry_tls=$3 registry_site=$(registry_site_of "$1")
  registry_auth=''; registry_basic=''; registry_known=''
  for registry_try in 1 2 3 4 5 6 7 8; do
    registry_get HEAD "$registry_url" "$registry_tls" "$registry_auth"
    case $registry_status in
      200) return 0 ;;
      30[12378]) registry_follow || return 1 ;;
      401 | 403)
        registry_challenge=$(registry_header www-authenticate)
        if [ -n "$registry_auth" ] || [ "$registry_status" = 403 ]; then
          case $registry_known/$registry_auth in
            /*) registry_says login "$registry_url" "$registry_status" ;;
            */Basic*) registry_says password "$registry_url" "$registry_status" ;;
            *) registry_says denied "$registry_url" "$registry_status" ;;
          esac
          return 1
        fi
        registry_known=$(registry_user "$registry_site" "$registry_tls") || {
          registry_says untold "$registry_url" 'the inventory has a login for this host, but with another scheme, `ca` or `skip-verify`'
          return 1
        }
        registry_basic=$(printf '%s' "$registry_known" | base64 | tr -d '\n')
        case $registry_challenge in
          *[Bb]earer\ *) registry_token "$(printf '%s\n' "$registry_challenge" | grep -i '^bearer ' | head -n 1)" "$2" || return 1 ;;
          *) [ -n "$registry_known" ] || { registry_says login "$registry_url" 401; return 1; }; registry_auth="Basic $registry_basic" ;;
        esac
        ;;
      404) registry_says missing "$registry_url" 404; return 1 ;;
      '') case $(registry_why) in
          certificate*) registry_says trust "$registry_url" "$(registry_why)" ;;
          *) registry_says untold "$registry_url" "$(registry_why)" ;;
        esac
        return 1 ;;
      *) break ;;
    esac
  done
  registry_says odd "$registry_url" "$(registry_why)"
  return 1
}

# registry_follow: follows the redirect of the last answer. No credential of one site goes to another.
registry_follow() {
  registry_to=$(registry_header location | head -n 1)
  case $registry_to in
    //*) registry_to=${registry_url%%:*}:$registry_to ;;
    /*) registry_to=$registry_site$registry_to ;;
  esac
  registry_is_url "$registry_to" || { registry_says odd "$registry_url" 'it redirects to an invalid URL'; return 1; }
  registry_url=$registry_to registry_auth=''
  registry_to=$(registry_site_of "$registry_url")
  [ "$registry_to" != "$registry_site" ] || return 0
  registry_site=$registry_to registry_tls=$(registry_tls_of "$registry_to") registry_known='' registry_basic=''
}
