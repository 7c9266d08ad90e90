// The clock of an emulated machine in QEMU's saved state, moved forward before it is read: QEMU itself has no way to. In the stream
// (QEMU docs/devel/migration.rst) a device's section begins with
//
//   0x04 | section u32 | name length u8 | name | instance u32 | version u32 | fields      all big-endian
//
// and the fields of the section "timer" are: ticks of the time stamp counter i64 | unused 8 bytes | nanoseconds i64.

const name = "timer";
const fullSection = 4;
const fieldsAt = 4 + 1 + name.length + 4 + 4;
const version = 2;

/** `state` with both clocks `elapsedMs` later; `khz` is the counter's rate. @throws {Error} when it has no such section */
export function moveClock(state: Buffer, elapsedMs: number, khz: number): Buffer {
  const needle = Buffer.from(`${String.fromCharCode(name.length)}${name}`, "latin1");
  for (let at = state.indexOf(needle); at >= 0; at = state.indexOf(needle, at + 1)) {
    const start = at - 5;
    if (start < 0 || state[start] !== fullSection) continue;
    const fields = start + 1 + fieldsAt;
    if (state.length < fields + 24 || state.readUInt32BE(fields - 4) !== version) continue;
    const moved = Buffer.from(state);
    const add = (offset: number, count: number): void => {
      const value = state.readBigInt64BE(fields + offset) + BigInt(Math.round(count));
      moved.writeBigInt64BE(value, fields + offset);
    };
    add(0, elapsedMs * khz);
    add(16, elapsedMs * 1e6);
    return moved;
  }
  throw new Error("the saved state has no clock");
}
