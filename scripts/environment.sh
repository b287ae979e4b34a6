# Makes .venv at the root of the checkout, or brings it up to date. Sourced by scripts/train and scripts/test, which then
# call `prepare_environment run` or `prepare_environment test`; afterwards $venv_python is ready.
#
#   TRAINER_PYTHON   the Python (3.11 to 3.13) to build on; default: the first of python3.11, 3.12, 3.13, python3
#   TRAINER_DEVICE   cpu, gpu or tpu: the TensorFlow to install; default: what this machine has
#
# A stamp in .venv holds a hash of all that was installed from; it is written last, so an interrupted set-up never counts
# as ready, and is begun anew. A lock in .venv makes a second set-up wait for the first.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
venv_python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

is_supported_python() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

find_python() {
  if [[ -n ${TRAINER_PYTHON:-} ]]; then
    is_supported_python "$TRAINER_PYTHON" || fail "TRAINER_PYTHON=$TRAINER_PYTHON is not a Python 3.11, 3.12 or 3.13"
    printf '%s' "$TRAINER_PYTHON"
    return
  fi
  local name
  # A name may be a shim that stands for no Python at all, so each is tried.
  for name in python3.11 python3.12 python3.13 python3; do
    if is_supported_python "$name"; then
      printf '%s' "$name"
      return
    fi
  done
  fail 'no Python 3.11, 3.12 or 3.13 found: install one (Debian and Ubuntu: apt install python3 python3-venv),' \
    'or name one with TRAINER_PYTHON=/path/to/python'
}

find_device() {
  local vendor device path
  case ${TRAINER_DEVICE:-auto} in
    cpu | gpu | tpu) printf '%s' "$TRAINER_DEVICE"; return ;;
    auto) ;;
    *) fail "TRAINER_DEVICE=$TRAINER_DEVICE must be cpu, gpu, tpu or auto" ;;
  esac
  # The PCI identities of TPU v2 to v6e; Google's network card has the same vendor.
  for path in /sys/bus/pci/devices/*; do
    { read -r vendor <"$path/vendor" && read -r device <"$path/device"; } 2>/dev/null || continue
    case $vendor:$device in
      0x1ae0:0x0027 | 0x1ae0:0x0056 | 0x1ae0:0x005e | 0x1ae0:0x0062 | 0x1ae0:0x0063 | 0x1ae0:0x006f)
        printf tpu
        return
        ;;
    esac
  done
  if compgen -G '/dev/nvidia[0-9]*' >/dev/null || [[ -e /dev/dxg ]]; then printf gpu; else printf cpu; fi
}

pins_of() {
  case $1 in
    cpu) printf '%s' pins.txt ;;
    *) printf '%s' "$1.txt" ;;
  esac
}

# What the stamp must hold: everything that decides what is installed, and where.
fingerprint() {
  local kind=$1 device=$2
  {
    printf '%s %s %s\n' "$kind" "$device" "$root"
    cat "$root"/setup.cfg "$root"/requirements/pins.txt "$root/requirements/$(pins_of "$device")"
    [[ $kind != test ]] || cat "$root"/requirements/test.txt
  } | cksum
}

is_ready() {
  local kind=$1 device=$2
  [[ ! -e $venv/.unfinished && -e $venv/.ready-$kind && $(<"$venv/.ready-$kind") == "$(fingerprint "$kind" "$device")" ]] &&
    is_supported_python "$venv_python"
}

quietly() {
  if ! "$@" >>"$venv/install.log" 2>&1; then
    say "failed: $*"
    tail -n 15 "$venv/install.log" >&2
    fail "the set-up did not finish (all of its output: $venv/install.log); run the same command again to begin anew"
  fi
}

install() {
  local kind=$1 device=$2 python pins start=$SECONDS
  if [[ -e $venv/.unfinished ]] || ! is_supported_python "$venv_python"; then
    [[ -e $venv/.unfinished ]] && say 'The last set-up was interrupted: beginning anew.'
    python=$(find_python) || exit 1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python has no venv module: install it (Debian and Ubuntu: apt install $(package_with_venv "$python"))"
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
    : >"$venv/.unfinished"
    say "Setting up .venv: $("$python" -V), TensorFlow for $device. Takes 1 to 3 minutes, once."
    quietly "$python" -m venv "$venv"
  else
    say "Bringing .venv up to date: $("$venv_python" -V), TensorFlow for $device."
  fi
  : >"$venv/.unfinished"
  rm -f "$venv"/.ready-*
  pins=$root/requirements/$(pins_of "$device")
  local pip=("$venv_python" -m pip --disable-pip-version-check --no-input install)
  say "  packages of ${pins#"$root"/}"
  # The build tools first, pinned too, so that no package is built with whatever happens to be newest.
  quietly "${pip[@]}" $(grep -E '^(setuptools|wheel)==' "$pins")
  quietly "${pip[@]}" --no-build-isolation -r "$pins"
  if [[ $kind == test ]]; then
    say '  packages of requirements/test.txt'
    quietly "${pip[@]}" -r "$root/requirements/test.txt"
  fi
  say '  the project itself'
  quietly "${pip[@]}" --no-build-isolation --no-deps -e "$root"
  # The tools of the tests do no harm to a run: what is ready for tests is ready for runs.
  fingerprint run "$device" >"$venv/.ready-run"
  [[ $kind == test ]] && fingerprint test "$device" >"$venv/.ready-test"
  rm -f "$venv/.unfinished"
  say "Ready in $((SECONDS - start)) s."
}

package_with_venv() {
  "$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

# Takes the lock on descriptor 9 for as long as this shell holds it open. Python's flock, since macOS has no command for it.
take_lock() {
  local python
  python=$(find_python) || exit 1
  exec 9>"$venv/.lock"
  "$python" -c '
import fcntl, sys
try:
  fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  print("Waiting for another set-up of .venv ...", file=sys.stderr, flush=True)
  fcntl.flock(9, fcntl.LOCK_EX)
'
}

prepare_environment() {
  local kind=$1 device
  device=$(find_device) || exit 1
  is_ready "$kind" "$device" && return
  mkdir -p "$venv" || fail "cannot write to $root"
  take_lock
  # Another set-up may have done it meanwhile.
  is_ready "$kind" "$device" || install "$kind" "$device"
  exec 9>&-
}
