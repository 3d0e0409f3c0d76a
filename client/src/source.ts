import { onPage } from "./page.js";
import { compare } from "./position.js";
import type { News, Resume, Sink, Stream } from "./stream.js";
import type { StreamOptions } from "./types.js";

/** A client's part in a source. */
export interface Membership {
  reconnect(): void;
  /** With `now` the stream is closed at once if this was the last one; true if it was. */
  leave(now?: boolean): boolean;
}

/** A stream that exists while somebody has joined it. */
export interface Source {
  /**
   * The first one opens the stream. `position` is what this client has seen up to; what the stream has
   * brought since then it gets from the server, on a connection of its own, before it shares.
   */
  join(sink: Sink, resume: Resume, options: StreamOptions): Membership;
}

/** Opens a stream whose options may change while it is open. */
export type Open = (sink: Sink, resume: Resume, options: () => StreamOptions) => Stream;

interface Member {
  readonly sink: Sink;
  readonly options: StreamOptions;
  position: string;
  /** Its own connection has brought it further than the shared one is, which is open and will follow. */
  ahead?: boolean;
  /** The server has answered to `position` on that connection, which is open. */
  answered?: boolean;
  /** Its own connection, until that has brought it to where the others are. */
  own?: Membership | undefined;
}

// By what makes two clients want the same stream; an object is a client that wants its own.
const sources = new Map<string | object, Source>();

/**
 * The source of this key on this page. `openShared` opens the stream for the first who joins, and it is
 * closed after the last; `openOwn` opens one for a single member.
 */
export function sourceOf(key: string | object, openShared: Open, openOwn: Open): Source {
  const found = sources.get(key);
  if (found) return found;
  const members = new Set<Member>();
  let stream: Stream | undefined;
  let last: News = {};
  let options: StreamOptions = {};
  let leavePage = () => {};

  // Of a client that is still here: what the others have given may belong to a component that is gone.
  const newest = () => {
    for (const member of members) options = member.options;
    return options;
  };
  const status = () => last.state?.connectionStatus ?? "";
  const isFinal = () => /failed|closed/.test(status());

  function all(news: News) {
    last = { state: news.state ?? last.state, position: news.position ?? last.position };
    // Members may leave and join while they are told: who left is told no more, who joined not yet.
    for (const member of [...members]) if (members.has(member)) take(member, news);
  }

  /** News lead from one position to the next. Who is not at the first one has missed something. */
  function take(member: Member, news: News) {
    const { from = "", position, state, gap } = news;
    if (member.own) return meet(member);
    const lost = member.ahead && state && state.connectionStatus !== "open";
    if (news.deaf || lost) return goApart(member);
    if (position === undefined) return member.sink(news);
    // The stream has left the state behind.
    if (from && !member.position && member.options.state) return goApart(member);
    member.position ||= from;
    const known = member.position;
    if (compare(known, from) === 0) {
      member.ahead = false;
      member.position = position;
      return member.sink(news);
    }
    const events = news.events?.filter(({ id }) => !(compare(id, known) <= 0));
    const other = events?.some(({ id }) => Number.isNaN(compare(id, known)));
    if (!member.ahead || other || !(compare(known, gap ? position : from) >= 0)) {
      return goApart(member);
    }
    if (compare(position, known) > 0) member.position = position;
    member.sink({ state, events, position: member.position });
  }

  /** Asks the server itself what follows this member's position. The answer is for nobody else but those who ask the same. */
  function goApart(member: Member) {
    const { position, options } = member;
    member.ahead = member.answered = false;
    const aside = sourceOf(
      typeof key === "string" ? `${key} from ${position}` : {},
      openOwn,
      openOwn,
    );
    const own = aside.join(follow, { lastEventId: position, connectionId: null }, options);
    if (members.has(member)) member.own = own;
    else own.leave();

    function follow(news: News) {
      if (news.state && news.state.connectionStatus !== "open") member.answered = false;
      if (news.position !== undefined) {
        member.position = news.position;
        member.answered = true;
      }
      member.sink(news);
      const { error } = news;
      const full = error?.type === "terminated" && error.reason.startsWith("max_");
      meet(member, full ? error.reason : undefined);
    }
  }

  /** Lets a member share again once it is where the others are, or the server takes no second connection. */
  function meet(member: Member, full?: string) {
    const { own, answered } = member;
    const reached = last.position ?? "";
    if (!own || status() !== "open") return;
    if (!full && !(answered && compare(member.position, reached) >= 0)) return;
    own.leave();
    member.own = undefined;
    member.ahead = !full;
    // Nobody can say what was missed.
    const gap: News = full ? { gap: { reason: full, id: reached } } : {};
    if (full) member.position = reached;
    member.sink({ state: last.state, position: member.position, ...gap });
  }

  // Quietly: a page that keeps a connection or a lock is not kept in the back/forward cache. One that
  // comes back from it goes on where it was.
  function turnPage({ type, persisted }: PageTransitionEvent) {
    if (isFinal()) return;
    if (type === "pagehide") stream?.close();
    else if (persisted) stream = openShared(all, resumeOf(last), newest);
  }

  function leave(member: Member, now = false): boolean {
    members.delete(member);
    member.own?.leave(now);
    member.own = undefined;
    // Not at once: whoever leaves only to join again (a remounted component, a new client of the same
    // stream) keeps the connection.
    if (now) closeIfEmpty();
    else setTimeout(closeIfEmpty);
    return !members.size;
  }

  function closeIfEmpty() {
    if (members.size || !stream) return;
    leavePage();
    stream.close();
    stream = undefined;
    last = {};
    sources.delete(key);
  }

  const source: Source = {
    join(sink, resume, options) {
      const member: Member = { sink, options, position: resume.lastEventId };
      // Alone: nobody else needs where the stream is.
      if (!members.size && member.position && compare(member.position, last.position ?? "") !== 0) {
        leavePage();
        stream?.close();
        stream = undefined;
      }
      members.add(member);
      if (!stream) {
        last = { position: member.position };
        stream = openShared(all, resume, newest);
        leavePage = onPage(["pagehide", "pageshow"], turnPage as (event: Event) => void);
      } else {
        take(member, { ...last, from: last.position });
        // What was final for those who were here need not be for who comes now.
        if (isFinal()) stream.reconnect();
      }
      return {
        reconnect: () => (member.own ?? stream)?.reconnect(),
        leave: (now) => leave(member, now),
      };
    },
  };
  sources.set(key, source);
  return source;
}

const resumeOf = ({ position = "", state }: News): Resume => ({
  lastEventId: position,
  connectionId: state?.connectionId ?? null,
});
