#!/usr/bin/env bash
set -euo pipefail
apt-get update -qq && apt-get install -y -qq python3-pip
pip3 install --quiet --break-system-packages torch --index-url https://download.pytorch.org/whl/cpu
pip3 install --quiet --break-system-packages numpy scipy pandas PyYAML nbformat Jinja2 platformdirs filelock
