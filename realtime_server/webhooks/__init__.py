"""Webhooks: transactions' changes as HTTP requests to the endpoints of CONFIGURATION_FILE.

Theory of operation. A reader of its own, with a slot of its own (:mod:`.webhooks`), takes each
transaction's changes, asks each endpoint's rules which of them it wants (:mod:`.rules`), joins
those to bodies of bounded size (:mod:`.body`), and puts them into the endpoint's queue. The
endpoint (:mod:`.endpoint`) sends one request at a time (:mod:`.client`), signed
(:mod:`.signature`). :mod:`.verdict` decides from the answer whether a request is delivered, tried
again, or given up, and :mod:`.dead_letters` keeps those that are given up. The slot moves behind the last transaction before
which every request is done or given up (:mod:`.progress`). :mod:`.redeliver` is the command that
sends dead letters again.

Nothing here is loaded by what serves sockets but the module that puts it together, and that only
where there are webhooks. The slot is another than the sockets' so that an endpoint which is down
can hold back its own reader, and with that WAL, while sockets go on.
"""
