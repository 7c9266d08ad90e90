// The sizes of hotpluggable memory, as Firecracker wants them.
import { Fault } from "../fault.ts";
import type { MemoryHotplug } from "../schema/bodies.ts";

const minBlockMib = 2;
const minSlotMib = 128;

/** @throws {Fault} naming the first size that does not fit the others */
export function checkMemoryHotplug(memory: MemoryHotplug): void {
  const { total_size_mib: total, block_size_mib: block, slot_size_mib: slot } = memory;
  const refuse = (why: string): Fault => new Fault(`Memory hotplug config error: ${why}`);
  if (block < minBlockMib)
    throw refuse(`Block size (\`block_size_mib\`) is ${block}; at least ${minBlockMib} MiB.`);
  // A power of two shares no bit with the number before it.
  if ((BigInt(block) & BigInt(block - 1)) !== 0n)
    throw refuse(`Block size (\`block_size_mib\`) is ${block}; a power of 2.`);
  if (slot < minSlotMib)
    throw refuse(`Slot size (\`slot_size_mib\`) is ${slot}; at least ${minSlotMib} MiB.`);
  if (slot % block !== 0)
    throw refuse(`Slot size (\`slot_size_mib\`) is ${slot}; a multiple of the block size (${block} MiB).`);
  if (total < slot)
    throw refuse(`Total size (\`total_size_mib\`) is ${total}; not lower than the slot size (${slot} MiB).`);
  if (total % slot !== 0)
    throw refuse(`Total size (\`total_size_mib\`) is ${total}; a multiple of the slot size (${slot} MiB).`);
}
