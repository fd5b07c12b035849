/** What the store in PostgreSQL keeps in its database, and the queries that it makes. */

/** Of the tables and functions: raised when older code could not use them. */
export const VERSION = 1;

/**
 * How many batches are looked at in one step, at most: for the statement that reads or
 * forgets them to take milliseconds.
 */
const STEP = 250;
/**
 * How many bytes one query reads, plus the last of its batches: enough that a round trip
 * costs little beside them.
 */
const READ_SIZE = 1024 * 1024;

/** The order of a stream. The columns identify a batch, together with its id. */
const ORDER = "sequence, epoch, part_from, part";

/** The queries of one schema. */
export interface Queries {
  /** Its version; no row if it is empty. Fails if there is none. */
  readonly version: string;
  /** `$1`: a lock, until the transaction ends. */
  readonly lock: string;
  /** `$1`: the name of a schema. Yields a row if it exists. */
  readonly hasSchema: string;
  readonly createSchema: string;
  readonly createTables: string;
  /** `$1` to `$8`: a batch. Yields what was done. */
  readonly add: string;
  /** `$1`: an id; `$2` to `$5`: the last batch that was read. */
  readonly read: string;
  /**
   * `$1`: the time before which batches are forgotten, in ms since 1970; `$2`: the
   * time from which on there are any. Yields some of them, the oldest, by series.
   */
  readonly oldest: string;
  /** `$1` to `$4`: some batches of a series. Yields how much was forgotten. */
  readonly forget: string;
}

/**
 * The queries of a schema.
 *
 * Batches that differ only in their sequence number are a series. What was forgotten of
 * one is a set of ranges, so that any number of batches takes one row, and one more for
 * each gap. As a multirange they would be read, and written, all at once: with a million
 * gaps, which a hostile sender can make, each of that would take seconds.
 *
 * Adding takes a shared lock of its series, and forgetting an exclusive one, so that a
 * batch is always in one of the two tables for those that add it again. The locks are
 * advisory ones, which write nothing, and which those who wait for get in turn. Each
 * statement of a function sees what was committed before it, and so before the lock was
 * taken; a single statement would see what there was before it began to wait. A function
 * is one round trip, besides.
 */
export function queriesOf(schemaName: string): Queries {
  const schema = `"${schemaName}"`;
  const series = `hashtextextended(
    format('stream_buffer %s %s %s', _id, _epoch, _part), 0)`;
  const inSeries = "b.id = _id and b.epoch = _epoch and b.part = _part";
  return {
    version: `select version from ${schema}.store`,
    lock: "select pg_advisory_xact_lock($1)",
    hasSchema: "select from pg_namespace where nspname = $1",
    createSchema: `create schema ${schema}`,
    // Text is compared byte by byte, so that no index depends on a locale. Bytes are
    // stored as they are: many are compressed already, and would take time for nothing.
    createTables: `
create table ${schema}.store (version integer not null);
insert into ${schema}.store values (${VERSION});

create table ${schema}.batch (
  id text collate "C" not null,
  epoch text collate "C" not null,
  sequence bigint not null,
  part text collate "C" not null,
  part_from bigint not null,
  received timestamptz not null,
  digest bytea not null,
  bytes bytea not null,
  primary key (id, ${ORDER})
);
alter table ${schema}.batch alter column bytes set storage external;
create index batch_received on ${schema}.batch (received);

create table ${schema}.pruned (
  id text collate "C" not null,
  epoch text collate "C" not null,
  part text collate "C" not null,
  first bigint not null,
  last bigint not null, -- at least the first one
  primary key (id, epoch, part, first)
);

create function ${schema}.add(
  _id text, _epoch text, _sequence bigint, _part text, _part_from bigint,
  _received timestamptz, _digest bytea, _bytes bytea
) returns text language plpgsql as $$
declare
  is_forgotten boolean;
  differs boolean;
begin
  -- In others, no statement sees what is committed while it waits for the lock.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'the transaction must be READ COMMITTED';
  end if;
  -- Otherwise a crash of the server could undo what senders take for delivered.
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  perform pg_advisory_xact_lock_shared(${series});
  -- Two epochs that add this number at the same time would not see each other.
  perform pg_advisory_xact_lock(hashtextextended(
    format('stream_buffer number %s %s', _id, _sequence), 0));
  select b.last >= _sequence into is_forgotten from ${schema}.pruned b
    where ${inSeries} and b.first <= _sequence
    order by b.first desc limit 1;
  if is_forgotten then
    return 'known';
  end if;
  insert into ${schema}.batch
    (id, epoch, sequence, part, part_from, received, digest, bytes) values
    (_id, _epoch, _sequence, _part, _part_from, _received, _digest, _bytes)
    on conflict do nothing;
  if found then
    perform from ${schema}.batch b
      where b.id = _id and b.sequence = _sequence and b.epoch <> _epoch;
    return case when found then 'overlap' else 'stored' end;
  end if;
  select b.digest <> _digest into differs from ${schema}.batch b
    where ${inSeries} and b.sequence = _sequence;
  return case when differs then 'conflict' else 'known' end;
end
$$;

create function ${schema}.forget(
  _id text, _epoch text, _part text, _sequences bigint[],
  out batches bigint, out bytes bigint
) language plpgsql set enable_seqscan = off as $$
declare
  number bigint;
  size bigint;
  gone bigint[];
  run record;
  last_of_next bigint;
begin
  perform pg_advisory_xact_lock(${series});
  batches := 0;
  bytes := 0;
  -- One by one: to find many at once, it may read all of the stream.
  foreach number in array _sequences loop
    delete from ${schema}.batch b where ${inSeries} and b.sequence = number
      returning octet_length(b.bytes) into size;
    continue when not found;
    batches := batches + 1;
    bytes := bytes + size;
    gone := gone || number;
  end loop;
  for run in
    select min(n.number) as first, max(n.number) as last from (
      select g as number, g - row_number() over (order by g) as run
        from unnest(gone) g
    ) n group by n.run
  loop
    -- It is joined to the ranges that it touches.
    delete from ${schema}.pruned b where ${inSeries} and b.first = run.last + 1
      returning b.last into last_of_next;
    update ${schema}.pruned b set last = coalesce(last_of_next, run.last)
      where ${inSeries} and b.last = run.first - 1 and b.first = (
        select max(b.first) from ${schema}.pruned b
          where ${inSeries} and b.first < run.first
      );
    if not found then
      insert into ${schema}.pruned (id, epoch, part, first, last) values
        (_id, _epoch, _part, run.first, coalesce(last_of_next, run.last));
    end if;
  end loop;
end
$$;`,
    add: `select ${schema}.add($1, $2, $3, $4, $5,
  to_timestamp($6::float8 / 1000), $7, $8) as result`,
    read: `
select sequence, epoch, part_from, part, digest, bytes from (
  select *, sum(octet_length(bytes)) over (order by ${ORDER})
    - octet_length(bytes) as before
  from (
    select ${ORDER}, digest, bytes from ${schema}.batch
      where id = $1 and (${ORDER}) > ($2, $3, $4, $5)
      order by ${ORDER} limit ${STEP}
  ) step
) measured
where before < ${READ_SIZE} order by ${ORDER}`,
    oldest: `
select id, epoch, part, array_agg(sequence) as sequences,
  (max(max(received)) over ())::text as latest
from (
  select id, epoch, part, sequence, received from ${schema}.batch
    where received < to_timestamp($1::float8 / 1000) and received >= $2::timestamptz
    order by received limit ${STEP}
) step
group by id, epoch, part`,
    forget: `select batches, bytes from ${schema}.forget($1, $2, $3, $4)`,
  };
}
