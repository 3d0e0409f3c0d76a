/**
 * Whether `id` is at or before `position`. Positions are `<epoch>-<seq>` and only those of one epoch
 * have an order; of two others nothing is known, and the answer is no.
 */
export function isSeen(id: string, position: string): boolean {
  const cut = id.lastIndexOf("-") + 1;
  return (
    cut > 0 &&
    id.slice(0, cut) === position.slice(0, cut) &&
    Number(id.slice(cut)) <= Number(position.slice(cut))
  );
}
