"""The simulator: decisions without a clock, and the one loop that runs them.

In the order in which to read it; what stands in brackets can wait::

    requests and plans     request  plan  [moves]
    the loop               engine  flight  moment  world  cluster  [executor  observer  stuck]
    what a step costs      latency
    who computes what      scheduling.face  scheduling.vllm  scheduling.orders
                           [scheduling.priority  scheduling.static  scheduling.versions
                           scheduling.in_flight]
    where tokens are kept  kv.cache  kv.paged  kv.pool  kv.prefix  kv.names  kv.node  kv.cached
                           [kv.tangled  kv.forks  kv.swap  kv.contiguous  kv.space  kv.books
                           kv.spec]
    several answers        [branching  parting  beams]
    the same, fast         fast.group  fast.vllm  [fast.steady]
    what is noted          record.recorder  record.log
    and made of it         record.records  record.rows  record.stays  record.memory
                           record.account  record.ttft  [record.columns]
    tests for plug-ins     [contract.schedulers  contract.caches  contract.routers
                           contract.latencies  contract.trials]

Policies (`scheduling`, `kv`) import nothing of the loop; the loop knows no policy by name. Why it
is built like this is told in docs/background/how-the-loop-works.md.
"""
