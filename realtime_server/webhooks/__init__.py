"""Webhooks: transactions' changes as HTTP requests to the endpoints of CONFIGURATION_FILE.

Theory of operation. A reader of its own, with a slot of its own (:mod:`.service`), takes each
transaction's changes, asks each endpoint's rules which of them it wants (:mod:`.rules`), joins
those to bodies of bounded size (:mod:`.body`), and puts them into the endpoint's queue. The
endpoint (:mod:`.endpoint`) sends one request at a time (:mod:`.client`), signed
(:mod:`.signature`). :mod:`.retries` decides from the answer whether a request is delivered, tried
again, or given up, and :mod:`.dead_letters` keeps those that are given up. A transaction is
acknowledged when every request of it, and of all before it, is delivered or given up
(:mod:`.progress`). :mod:`.redeliver` is the command that sends dead letters again.

The slot is not the one that serves the sockets: an endpoint that is down can hold back this
reader, and with it WAL, while the sockets go on. A server without webhooks makes none of this,
and does not load the HTTP client.
"""
