import { isFinal, type News, type Resume, type Sink, type Stream } from "./news.js";
import { onPage } from "./page.js";
import { compare } from "./position.js";
import type { StreamOptions } from "./types.js";

/** The membership of one client in a source. */
export interface Membership {
  reconnect(): void;
  /** Leaves; true if this was the last member. Then the stream is closed: at once with `now`, else in a later task. */
  leave(now?: boolean): boolean;
}

/**
 * Adds a member to a stream that several clients share. It is open while it has a member: the first opens it. A
 * later member whose position is older than that of the stream first gets the missed events from the server, on
 * a connection of its own.
 */
export type Join = (sink: Sink, resume: Resume, options: StreamOptions) => Membership;

/** Opens a stream. Its options may change while it is open. */
export type Open = (sink: Sink, resume: Resume, options: () => StreamOptions) => Stream;

interface Member {
  readonly sink: Sink;
  readonly options: StreamOptions;
  position: string;
  /** Its own connection brought it further than the shared one, which is open and will reach that position. */
  ahead?: boolean;
  /** Its own connection is open, and the server has sent a position on it. */
  answered?: boolean;
  /** Its own connection, until it has reached the position of the shared one. */
  own?: Membership | undefined;
}

// Clients with the same key share a stream. A client that shares with nobody uses an object as key.
const sources = new Map<string | object, Join>();

/**
 * Returns the function that joins the stream of a key on this page. `openShared` opens the shared stream, and
 * `openOwn` opens a stream for a single member.
 */
export function sourceOf(key: string | object, openShared: Open, openOwn: Open): Join {
  const found = sources.get(key);
  if (found) return found;
  const members = new Set<Member>();
  let stream: Stream | undefined;
  let last: News = {};
  let options: StreamOptions = {};
  let leavePage: (() => void) | undefined;

  // The options of the newest member. Those of a member that left may belong to a component that is gone.
  const currentOptions = () => {
    for (const member of members) options = member.options;
    return options;
  };

  function deliverAll(news: News) {
    const { state = last.state, position = last.position, leaderLost } = news;
    last = { state, position, leaderLost };
    // A sink may make members leave or join. Those get no more of these news, or none yet.
    for (const member of [...members]) if (members.has(member)) deliver(member, news);
  }

  /** Delivers news, which lead from one position to another. A member that is not at the first has missed events. */
  function deliver(member: Member, news: News) {
    const { from = "", position, state, gap } = news;
    if (member.own) return rejoin(member);
    if (news.leaderLost || (member.ahead && state && state.connectionStatus !== "open")) {
      return catchUp(member);
    }
    if (position === undefined) return member.sink(news);
    // The member needs the state (see `StreamOptions.state`), and the shared stream is past it.
    if (from && !member.position && member.options.state) return catchUp(member);
    member.position ||= from;
    const known = member.position;
    if (compare(known, from) === 0) {
      member.ahead = false;
      member.position = position;
      return member.sink(news);
    }
    const events = news.events?.filter(({ id }) => !(compare(id, known) <= 0));
    const other = events?.some(({ id }) => !(compare(id, known) > 0));
    if (!member.ahead || other || !(compare(known, gap ? position : from) >= 0)) {
      return catchUp(member);
    }
    if (compare(position, known) > 0) member.position = position;
    member.sink({ state, events, position: member.position });
  }

  /** Gets the events after the member's position, on a connection that only members with the same position share. */
  function catchUp(member: Member) {
    const { position, options } = member;
    member.ahead = member.answered = false;
    const join = sourceOf(
      typeof key === "string" ? `${key} from ${position}` : {},
      openOwn,
      openOwn,
    );
    const own = join(follow, { lastEventId: position, connectionId: null }, options);
    if (members.has(member)) member.own = own;
    else own.leave();

    function follow(news: News) {
      member.position = news.position ?? member.position;
      // A position of the server comes with events, if only none. Without them it is where the connection began.
      if (news.events) member.answered = true;
      if (news.state && news.state.connectionStatus !== "open") member.answered = false;
      member.sink(news);
      const { error } = news;
      rejoin(member, error?.type === "terminated" && /^max_/.test(error.reason) && error.reason);
    }
  }

  /** Ends the member's own connection once it has reached the others, or if the server refuses it. */
  function rejoin(member: Member, refusal?: string | false) {
    const { own, answered } = member;
    const reached = last.position ?? "";
    if (!own || last.state?.connectionStatus !== "open") return;
    if (!refusal && !(answered && compare(member.position, reached) >= 0)) return;
    own.leave();
    member.own = undefined;
    member.ahead = !refusal;
    // After a refusal the missed events are not known.
    const gap = refusal ? { reason: refusal, id: reached } : undefined;
    if (gap) member.position = reached;
    member.sink({ state: last.state, position: member.position, gap });
  }

  // Browsers do not keep a page with a connection or a lock in the back/forward cache. So the stream is closed
  // without a report, and resumes when the page comes back.
  function onPageTransition({ type, persisted }: PageTransitionEvent) {
    const hides = type === "pagehide";
    if (isFinal(last.state) || !(hides || persisted)) return;
    // The browser says that a page is visible before it says that the page is shown. In between the page may call
    // `reconnect()`.
    stream?.close();
    const resume = {
      lastEventId: last.position ?? "",
      connectionId: last.state?.connectionId ?? null,
    };
    // While the page is hidden, the stream is one that does nothing.
    stream = hides
      ? { reconnect() {}, close() {} }
      : openShared(deliverAll, resume, currentOptions);
  }

  function leave(member: Member, now = false): boolean {
    members.delete(member);
    member.own?.leave(now);
    member.own = undefined;
    // In a later task, so that a member that joins again keeps the connection: a remounted component, or a
    // new client of the same stream.
    if (now) closeIfEmpty();
    else setTimeout(closeIfEmpty);
    return !members.size;
  }

  function closeStream() {
    leavePage?.();
    stream?.close();
    stream = undefined;
  }

  function closeIfEmpty() {
    if (members.size || !stream) return;
    closeStream();
    last = {};
    sources.delete(key);
  }

  const join: Join = (sink, resume, options) => {
    const member: Member = { sink, options, position: resume.lastEventId };
    // The only member decides the position of the stream.
    if (!members.size && member.position && compare(member.position, last.position ?? "") !== 0) {
      closeStream();
    }
    members.add(member);
    if (!stream) {
      last = { position: member.position };
      stream = openShared(deliverAll, resume, currentOptions);
      leavePage = onPage(["pagehide", "pageshow"], onPageTransition as (event: Event) => void);
    } else {
      deliver(member, { ...last, from: last.position });
      // A failure that was final for earlier members may not be final for the new one.
      if (isFinal(last.state)) stream.reconnect();
    }
    return {
      reconnect: () => (member.own ?? stream)?.reconnect(),
      leave: (now) => leave(member, now),
    };
  };
  sources.set(key, join);
  return join;
}
