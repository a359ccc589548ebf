"""Replay: a client that comes back gets what it missed, although it keeps nothing itself.

Theory of operation. The server remembers, for each channel of a client that is away, up to which
place of the stream the client is known to have received everything. Changes behind the lowest such
place are kept. When the client joins the channel again, it gets what is behind its place, through a
hub of its own that runs behind the live one, until it has caught up.

The words of these modules, each with the module that it is at home in:

Where something stands in the stream

* *place* (:mod:`.places`): a point in the stream of changes. "Up to a place" includes the change
  there.
* *ordinal* (:mod:`.proofs`): the number of a write to clients. A ping has the ordinal of the last
  write before it.
* *proof* (:mod:`.proofs`): a client's pong proves that it has received all writes up to the pong's
  ordinal. :mod:`.connection_proof` has what the client of one connection has proven so far.
* *written places* (:mod:`.written_places`): the place up to which everything was written with an
  ordinal. *Queue places* (:mod:`.queue_places`) are lower ones, of viewers whose changes wait for a
  slow policy.
* *standing* (:mod:`.standing`, :mod:`.standings`): the place up to which one channel's client is
  proven to have everything. A standing is *settled* when it follows from the connection's proofs
  alone, because everything from before the channel was live is proven.

Who is there, and who comes back

* *visit* (:mod:`.visit`): a connection, as far as replay is concerned.
* *key* (:mod:`.identity`): what a channel is known by when its client comes back.
* *membership* (:mod:`.memberships`): one connection's channel, from its join to its end. A later
  membership of the same client may go on where an earlier one ended. A membership is *claimed* when
  a later one has gone on from it although its connection still looks open.
* *absence* (:mod:`.absences`): what a membership leaves behind when its connection is lost: its
  key and its place. :mod:`.fair_shares` says which absence has to go when there are too many.
* *parked* (:mod:`.parking`): a channel that has ended, and that its client may join again on the
  same connection.
* *liveness check* (:mod:`.liveness_checks`): pings to the clients of open connections, to find out
  whether they are still there. They are sent when somebody joins who may be one of them.
* *start* (:mod:`.channel_starts`): the decision where a channel starts: where a former one ended,
  or now. :mod:`.notices` tells the channel of it. :mod:`.channel_ends` decides what a channel
  leaves behind.
* *needs* (:mod:`.needs`): the places of all clients together, from which follows which changes may
  be given up.

How a client catches up

* *log* (:mod:`.change_log`, :mod:`.segments`): the changes that clients may have missed. It is
  complete behind its *floor*. Its *epoch* changes when the stream becomes another one, with whose
  places former ones cannot be compared.
* *round* (:mod:`.catch_up_round`): channels that catch up together, in a hub of their own. Rounds
  begin and end in :mod:`.catch_up`. Channels that have everything *go live* (:mod:`.going_live`).
* *older changes* (:mod:`.older_changes`): what the log has given up, where it can be read again.

What outlives a server process

* *second slot* (:mod:`.second_slot`): a replication slot that keeps the WAL that clients may need.
* *journal* (:mod:`.journal`): what all server processes of a database write into the WAL about
  their channels, as *records* (:mod:`.records`).
* :mod:`.journal_writer` writes the records, and :mod:`.journal_reader` reads them.
* *ledger* (:mod:`.ledger`): what the journal still has to be told of this process's channels.
* *other processes* (:mod:`.other_processes`, :mod:`.process`): their channels, as the journal has
  them.
* *low* (:mod:`.records`): the place up to which all joined channels of a process have everything.
* *past* (:mod:`.past`): where a process that begins finds what was missed, and the journal: in the
  second slot (:mod:`.second_slot_past`), or in the log that several servers share.
* :mod:`.durable` puts the past and the journal together, and :mod:`.continuity` connects
  them with what this process knows.
"""
