const FORM = /^([^-]+)-(\d+)(?:-([0-9a-z]{4}))?$/;

/**
 * Compares two positions, `<epoch>-<seq>-<tag>` or without the tag: negative, 0 or positive. NaN if they have
 * no order: the epochs differ, the tags of the same `seq` differ (another history), or one has another form.
 */
export function compare(a: string, b: string): number {
  if (a === b) return 0;
  const [, epoch, seq, tag] = FORM.exec(a) ?? [];
  const [, epochB, seqB, tagB] = FORM.exec(b) ?? [];
  const order = epoch === epochB ? Number(seq) - Number(seqB) : NaN;
  return order === 0 && tag && tagB && tag !== tagB ? NaN : order;
}
