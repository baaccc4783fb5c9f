#!/bin/sh
# tokenize.sh - what the first job of align.sh runs: stores the prompts, and fails when the jobs that wait for it could not work.
#
#     pipelines/slurm/tokenize.sh PROMPTS EVAL-FRACTION tokenize ARGUMENTS...
#
# In the repository's top, with the store at VAS_STORE.  Lines that cannot be used are left out and said.
set -eu
. pipelines/align_options.sh
prompts=$1 eval_fraction=$2
shift 2
code=0
"$@" || code=$?
[ "$code" = 0 ] || [ "$code" = 65 ] || exit "$code"
prompts_check "$code"
if [ -n "$lacks" ]; then
    lacks_say kept
    exit 65
fi
[ -z "$left_out" ] || echo "vas-align: $left_out" >&2
