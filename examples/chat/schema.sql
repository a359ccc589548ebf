-- Rooms, who is in them, and what is said there. The policies decide who reads and who writes,
-- whether by a query or by a change that arrives.
CREATE TABLE members (
    room text NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (room, name)
);
CREATE TABLE messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room text NOT NULL,
    author text NOT NULL,
    body text NOT NULL CHECK (length(body) BETWEEN 1 AND 1000),
    sent_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON messages (room, id);

INSERT INTO members VALUES ('garden', 'Ann'), ('garden', 'Bob'), ('kitchen', 'Bob'), ('kitchen', 'Eve');

-- Who asks: the claim "sub" of the token, or NULL where there is none. STABLE, not IMMUTABLE: it
-- reads a setting.
CREATE FUNCTION me() RETURNS text STABLE LANGUAGE sql
RETURN nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';

ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
-- (SELECT …) lets PostgreSQL call the function once, not once for each row.
CREATE POLICY own ON members FOR SELECT TO chat_user USING (name = (SELECT me()));
CREATE POLICY read ON messages FOR SELECT TO chat_user
    USING (room IN (SELECT room FROM members WHERE name = (SELECT me())));
CREATE POLICY write ON messages FOR INSERT TO chat_user
    WITH CHECK (
        author = (SELECT me())
        AND room IN (SELECT room FROM members WHERE name = (SELECT me()))
    );
GRANT SELECT ON members, messages TO chat_user;
GRANT INSERT (room, author, body) ON messages TO chat_user;

-- Inserts alone: a DELETE would tell every role the primary key of a row that was not theirs.
CREATE PUBLICATION chat FOR TABLE messages WITH (publish = 'insert');
