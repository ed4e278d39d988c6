#!/usr/bin/env bash
# From a bare Ubuntu or Debian machine, with or without an NVIDIA GPU, to a running service:
#
#   git clone … && cd synchuman-studio && bash setup_instance.sh
#
# Run it again after a change or an update: it does only what is missing, and restarts the service.
#
#   --variant NAME   auto (default: official on a GPU that holds it whole, else mini), mini, official, or a folder
#   --port N         default 8000
#   --host ADDRESS   default 0.0.0.0; 127.0.0.1 for this machine alone
#   --auth USER:PW   login of the page; made up and shown when not given
#   --allow-public   no login: whoever finds the port may use the service
#   --torch BUILD    pypi (CUDA 13), cu128, cu126 or cpu; default: what the driver can run
#   --systemd        run as a systemd unit, so that it comes back after a reboot
#   --no-start       set up only
#
# Environment: HF_TOKEN for weights that ask for consent, HF_HOME for another disk.
set -euo pipefail
cd "$(dirname "$0")"

VENV=$PWD/.venv
STATE=${XDG_STATE_HOME:-$HOME/.local/state}/synchuman   # settings, log, process id, data
DRIVER_CUDA13=580   # NVIDIA, CUDA Compatibility, minor version compatibility: CUDA 13.x
DRIVER_CUDA12=525   # the same: CUDA 12.x
DRIVER_BLACKWELL=570   # the first with CUDA 12.8, which knows compute capability 10 and 12
READY_SECONDS=${READY_SECONDS:-900}

variant=auto port=8000 host=0.0.0.0 auth='' public='' torch='' systemd='' start=yes

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --variant) variant=${2:?--variant needs a name}; shift ;;
      --port) port=${2:?--port needs a number}; shift ;;
      --host) host=${2:?--host needs an address}; shift ;;
      --auth) auth=${2:?--auth needs user:password}; shift ;;
      --torch) torch=${2:?--torch needs a build}; shift ;;
      --allow-public) public=yes ;;
      --systemd) systemd=yes ;;
      --no-start) start='' ;;
      -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
      *) die "Unknown option $1; --help lists all." ;;
    esac
    shift
  done
  case $auth in ''|?*:?*) ;; *) die "--auth takes user:password." ;; esac
  case $torch in ''|pypi|cpu|cu[0-9]*) ;; *) die "--torch takes pypi, cu128, cu126 or cpu." ;; esac
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    die "This needs root: $*"
  fi
}

# The newest Python that fits and can make virtual environments.
find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3.10 python3; do
    if command -v "$name" >/dev/null && "$name" -c \
      'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

install_packages() {
  if find_python >/dev/null && command -v curl >/dev/null; then return; fi
  command -v apt-get >/dev/null || die "Neither Python 3.10 to 3.13 with venv, nor apt-get to install it."
  say "Installing Python and curl …"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates curl python3 python3-venv >/dev/null
  find_python >/dev/null || die "This system's Python is $(python3 -V 2>&1), but 3.10 to 3.13 is needed: \
take an image of Ubuntu 22.04 or Debian 12, or newer."
}

# Sets gpu, driver, memory (MiB) and capability (as 86 for 8.6) of the first card; empty without one.
look_at_gpu() {
  gpu='' driver='' memory=0 capability=0
  local line
  command -v nvidia-smi >/dev/null || return 0
  line=$(nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap \
    --format=csv,noheader,nounits 2>/dev/null | head -n 1) || line=''
  case $line in *,*,*,*) ;; *) say "nvidia-smi finds no working card."; return 0 ;; esac
  IFS=',' read -r gpu driver memory capability <<<"$line"
  driver=${driver// /} memory=${memory// /} capability=${capability//[ .]/}
}

# Prints the build of torch for this machine, and says why when it is not the usual one.
choose_torch() {
  if [ -z "$gpu" ]; then echo cpu; return; fi
  local major=${driver%%.*}
  if [ "$major" -lt "$DRIVER_CUDA12" ]; then
    say "The driver ($driver) is too old for any build of torch we can use: $DRIVER_CUDA12 is the least. Taking \
the CPU build; update the driver (apt-get install nvidia-driver-580 on Ubuntu, or another image) and run this again."
    echo cpu
  elif [ "$capability" -ge 100 ] && [ "$major" -lt "$DRIVER_CUDA13" ]; then
    [ "$major" -ge "$DRIVER_BLACKWELL" ] || say "The driver ($driver) is older than this card needs."
    say "The driver ($driver) is too old for CUDA 13 ($DRIVER_CUDA13 is the least): taking the CUDA 12.8 build."
    echo cu128
  elif [ "$major" -lt "$DRIVER_CUDA13" ]; then
    say "The driver ($driver) is too old for CUDA 13 ($DRIVER_CUDA13 is the least): taking the CUDA 12.6 build."
    echo cu126
  elif [ "$capability" -lt 75 ]; then
    say "$gpu is too old for CUDA 13: taking the CUDA 12.6 build."
    echo cu126
  else
    echo pypi
  fi
}

# On a GPU, Triton builds kernels when they are first used. Without a compiler plain torch does the same, slower.
install_compiler() {
  if [ "$torch" = cpu ] || command -v gcc >/dev/null || ! command -v apt-get >/dev/null; then return; fi
  say "Installing a C compiler for GPU kernels …"
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      gcc libc6-dev "$(basename "$(find_python)")-dev" >/dev/null; } ||
    say "It cannot be installed: everything works, but more slowly (docs/troubleshooting.md)."
}

install_python_packages() {
  local stamp wanted
  stamp=$VENV/synchuman-setup
  wanted="$torch $(cat requirements.txt requirements.lock requirements-torch.lock pyproject.toml | cksum)"
  if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    say "Python packages are up to date."
    return
  fi
  say "Installing Python packages (torch: $torch) …"
  [ -x "$VENV/bin/python" ] || "$(find_python)" -m venv "$VENV"
  local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
  if [ "$torch" = pypi ]; then
    "${pip[@]}" --no-deps --require-hashes -r requirements-torch.lock
  else
    "${pip[@]}" --index-url "https://download.pytorch.org/whl/$torch" "$(grep '^torch[<>=]' requirements.txt)"
  fi
  "${pip[@]}" --no-deps --require-hashes -r requirements.lock
  "${pip[@]}" --no-deps --editable .
  echo "$wanted" >"$stamp"
}

choose_variant() {
  [ "$variant" = auto ] || return 0
  local needed
  needed=$("$VENV/bin/python" -c 'from synchuman.needs import OFFICIAL_RESIDENT as b; print(b >> 20)')
  if [ "$torch" != cpu ] && [ "$memory" -ge "$needed" ]; then variant=official; else variant=mini; fi
  say "Weights: $variant${gpu:+ ($gpu, $memory MiB)}"
}

secret() { head -c 18 /dev/urandom | base64 | tr '+/' '-_'; }

# The service's settings: kept over runs, for our eyes only. A key of our own lets this script ask for /ready.
write_settings() {
  mkdir -p "$STATE"
  chmod 700 "$STATE"
  settings=$STATE/service.env
  touch "$settings"
  chmod 600 "$settings"
  local key login token
  token=${HF_TOKEN:-$(sed -n 's/^HF_TOKEN=//p' "$settings")}
  key=$(sed -n 's/^SYNCHUMAN_API_KEYS=//p' "$settings")
  login=$(sed -n 's/^SYNCHUMAN_AUTH=//p' "$settings")
  key=${key:-setup:$(secret)}
  login=${auth:-${login:-me:$(secret)}}
  [ -z "$public" ] || key='' login=''
  {
    echo "SYNCHUMAN_API_KEYS=$key"
    echo "SYNCHUMAN_AUTH=$login"
    echo "HF_HOME=${HF_HOME:-$HOME/.cache/huggingface}"
    [ -z "$token" ] || echo "HF_TOKEN=$token"
  } >"$settings.new"
  chmod 600 "$settings.new"
  mv "$settings.new" "$settings"
  arguments=(api_server.py --page --host "$host" --port "$port" --variant "$variant" --data "$STATE/data")
  [ -z "$public" ] || arguments+=(--allow-public)
  api_key=${key#*:}
}

# Not sourced, nor read by systemd: a password may hold what either would take for its own.
write_launcher() {
  launcher=$STATE/start
  {
    echo '#!/usr/bin/env bash'
    echo '# Made by setup_instance.sh: becomes the service, with its settings.'
    printf 'cd %q\n' "$PWD"
    # shellcheck disable=SC2016 # for the launcher to expand
    printf 'while IFS= read -r line; do export "${line?}"; done <%q\n' "$settings"
    printf 'exec %s\n' "$(printf '%q ' "$VENV/bin/python" "${arguments[@]}")"
  } >"$launcher"
  chmod 700 "$launcher"
}

end_background() {
  local old
  old=$(cat "$STATE/pid" 2>/dev/null || true)
  # Only a process that is this service: a number may have been given to another since.
  if [ -n "$old" ] && tr '\0' ' ' <"/proc/$old/cmdline" 2>/dev/null | grep -q "api_server.py"; then
    say "Ending the service that runs …"
    kill "$old"
    for _ in $(seq 300); do [ -d "/proc/$old" ] || break; sleep 0.1; done
  fi
  rm -f "$STATE/pid"
}

start_in_background() {
  if systemctl is-active --quiet synchuman 2>/dev/null; then
    die "The service runs as a systemd unit: give --systemd, or end it with: systemctl disable --now synchuman"
  fi
  end_background
  (exec setsid nohup bash "$launcher" </dev/null >>"$STATE/log" 2>&1) &
  echo $! >"$STATE/pid"
}

start_with_systemd() {
  systemctl show --property=Version >/dev/null 2>&1 ||
    die "systemd does not run here (a container?): leave --systemd out."
  end_background
  # Doubled, a % is a plain one in units.
  as_root tee /etc/systemd/system/synchuman.service >/dev/null <<UNIT
[Unit]
Description=SyncHuman Studio
After=network-online.target
Wants=network-online.target

[Service]
User=$(id -un)
ExecStart=$(command -v bash) "${launcher//%/%%}"
Restart=on-failure
TimeoutStopSec=30
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
UNIT
  as_root systemctl daemon-reload
  as_root systemctl enable --quiet synchuman
  as_root systemctl restart synchuman
}

wait_until_ready() {
  local second
  for ((second = 0; second < READY_SECONDS; second++)); do
    if curl -sf -o /dev/null -H "X-API-Key: $api_key" "http://127.0.0.1:$port/ready"; then return; fi
    if [ -n "$systemd" ]; then
      if systemctl is-failed --quiet synchuman; then die "The service ended: journalctl -u synchuman says why."; fi
    elif ! kill -0 "$(cat "$STATE/pid")" 2>/dev/null; then
      tail -n 20 "$STATE/log" >&2
      die "The service ended; its log is $STATE/log."
    fi
    sleep 1
  done
  die "The service is not ready after $READY_SECONDS s; its log is $STATE/log."
}

tell() {
  # vast.ai maps ports and says so in the environment.
  local outside="VAST_TCP_PORT_$port"
  local address="http://${PUBLIC_IPADDR:-$([ "$host" = 0.0.0.0 ] && hostname -I 2>/dev/null | cut -d' ' -f1 || echo "$host")}"
  say "Ready: $address:${!outside:-$port}"
  [ -n "$public" ] || say "Login: $(sed -n 's/^SYNCHUMAN_AUTH=//p' "$settings")   API key: $api_key"
  say "Without TLS both cross the network in the clear: docs/hosting.md shows a proxy, or use ssh -L $port:127.0.0.1:$port."
}

read_options "$@"
install_packages
look_at_gpu
[ -n "$torch" ] || torch=$(choose_torch)
install_compiler
install_python_packages
choose_variant
if [ "$variant" = official ]; then "$VENV/bin/python" -m synchuman weights pull; fi
write_settings
write_launcher
[ -n "$start" ] || { say "Set up. Start it: run this again without --no-start."; exit 0; }
if [ -n "$systemd" ]; then start_with_systemd; else start_in_background; fi
wait_until_ready
tell
