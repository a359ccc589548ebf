// The first generation of npm's client, which joins topics.
// In package.json it has a name of its own, as the second generation is there as well:
// in your program it is "@supabase/realtime-js".
import { RealtimeClient } from "realtime-js-1";

const socket = new RealtimeClient(process.env.REALTIME_URL || "ws://localhost:4000/socket");
socket.connect();

// All changes of the schema public.
const everything = socket.channel("realtime:public");
everything.on("*", (change) => {
  console.log(`realtime:public: ${change.type} of ${change.table}`);
});
everything.subscribe().receive("ok", () => console.log("joined realtime:public"));

// The changes of one table.
const users = socket.channel("realtime:public:users");
users.on("INSERT", ({ record }) => console.log(`new user: ${record.name}`));
users.on("UPDATE", ({ old_record: before, record }) => {
  console.log(`user ${record.id} was ${before.name}, and is ${record.name}`);
});
users.on("DELETE", ({ old_record: before }) => console.log(`user ${before.id} is gone`));
users.subscribe().receive("ok", () => console.log("joined realtime:public:users"));

// The changes of the rows that pass a filter; all values are PostgreSQL's texts.
const done = socket.channel("realtime:public:todos:done=is.true");
done.on("*", ({ record }) => record && console.log(`done: ${record.task}`));
done.subscribe().receive("ok", () => console.log("joined realtime:public:todos:done=is.true"));
