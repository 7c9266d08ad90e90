// PUT /cpu-config: a custom CPU template, in its own small language.
import { parseBitmap, parseCapability, parseRegister } from "./field-syntax.ts";
import { defaulted, list, object, openObject, parsed, required, unsigned } from "./strict-json.ts";

const register = parsed("a number of 32 bits after 0b or 0x", parseRegister);
const bitmap = (bits: number) => parsed(`a bitmap of at most ${bits} bits 0, 1 or x`, parseBitmap(bits));
const cpuidRegisters = ["eax", "ebx", "ecx", "edx"];
const cpuidRegister = parsed("one of eax, ebx, ecx, edx", (source) =>
  cpuidRegisters.find((one) => one === source),
);

/** PUT /cpu-config on x86_64 */
export const cpuConfigBody = object({
  kvm_capabilities: defaulted(
    list(parsed("a KVM capability: a number, after ! to drop it", parseCapability)),
    [],
  ),
  cpuid_modifiers: defaulted(
    list(
      openObject({
        leaf: required(register),
        subleaf: required(register),
        flags: required(unsigned("u32")),
        modifiers: required(
          list(openObject({ register: required(cpuidRegister), bitmap: required(bitmap(32)) })),
        ),
      }),
    ),
    [],
  ),
  msr_modifiers: defaulted(list(openObject({ addr: required(register), bitmap: required(bitmap(64)) })), []),
});

export type CpuConfig = ReturnType<typeof cpuConfigBody>;
