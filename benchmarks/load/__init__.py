"""What a running proxy does under load, beside nginx and HAProxy in one run: a module per question, rig.py for all.

python -m benchmarks.load.slowloris   5,000 clients that never finish a head: what others notice
python -m benchmarks.load.idle        10,000 idle keep-alive connections: resident memory
python -m benchmarks.load.body        1 GiB through, down and up: rate
python -m benchmarks.load.sockets     WebSocket echo: CPU per message, latency

Each prints its figures as JSON and, with --out, writes them to a file of benchmarks/results. Ratios are of one run,
turn by turn; docs/performance.md says what was found.
"""
