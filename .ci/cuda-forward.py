"""Writes NAME.s and NAME.c, which forward the functions of a shared library that is opened at the first call.

usage: cuda-forward.py BINDINGS.rs FUNCTION_PREFIX NAME SONAME[,SONAME...] FOLDER

Each entry point jumps through a table; a row that is still empty goes to a resolver, which keeps the arguments'
registers (System V calling convention, x86-64) as it found them.
"""

import re
import sys
from pathlib import Path

bindings, prefix, name, sonames, folder = sys.argv[1:]
functions = sorted(set(re.findall(rf"\bfn ({prefix}[A-Za-z_0-9]+)", Path(bindings).read_text())))
if not functions:
    sys.exit(f"no functions {prefix}* in {bindings}")

lines = [".text"]
for index, function in enumerate(functions):
    lines += [
        f".globl {function}",
        f".type {function},@function",
        f"{function}:",
        f" movq {name}_table+{8 * index}(%rip),%r11",
        " testq %r11,%r11",
        " je 1f",
        " jmp *%r11",
        f"1: pushq ${index}",
        f" jmp {name}_first_call",
    ]
saved = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "r10"]
lines += [f"{name}_first_call:"]
lines += [f" pushq %{register}" for register in saved]
lines += [" subq $128,%rsp"] + [f" movdqu %xmm{i},{16 * i}(%rsp)" for i in range(8)]
lines += [" movq 192(%rsp),%rdi", " pushq %rbp", " movq %rsp,%rbp", " andq $-16,%rsp"]
lines += [f" call {name}_resolve", " movq %rbp,%rsp", " popq %rbp", " movq %rax,%r11"]
lines += [f" movdqu {16 * i}(%rsp),%xmm{i}" for i in range(8)] + [" addq $128,%rsp"]
lines += [f" popq %{register}" for register in reversed(saved)]
lines += [" addq $8,%rsp", " jmp *%r11"]
lines += [".bss", ".align 8", f".globl {name}_table", f"{name}_table: .skip {8 * len(functions)}"]
lines += ['.section .note.GNU-stack,"",@progbits']
Path(folder, f"{name}.s").write_text("\n".join(lines) + "\n")


def strings(values):
    return ", ".join(f'"{value}"' for value in values)


Path(folder, f"{name}.c").write_text(
    f"""#include <dlfcn.h>
#include <stdio.h>

extern void *{name}_table[];
static const char *const functions[] = {{{strings(functions)}}};
static const char *const libraries[] = {{{strings(sonames.split(","))}, 0}};
static void *handle;

/* What a function returns whose library is not there; the driver's API reads it as "no device". */
static int absent(void) {{ return 100; }}

void *{name}_resolve(long index) {{
  for (int i = 0; !handle && libraries[i]; i++) handle = dlopen(libraries[i], RTLD_NOW | RTLD_GLOBAL);
  void *function = handle ? dlsym(handle, functions[index]) : 0;
  if (!function) {{
    if (handle) fprintf(stderr, "%s is missing in %s\\n", functions[index], libraries[0]);
    return (void *)absent;
  }}
  return {name}_table[index] = function;
}}
"""
)
