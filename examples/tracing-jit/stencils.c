// One piece of machine code for each thing that a trace can do. jit.js compiles this file once, with the C compiler of
// the machine; a trace is a row of copies of these pieces with their holes filled.
//
// Whatever is declared extern and not defined is a hole. The address of a hole is its value: &A is the number of a
// register, &VALUE a constant, &RECORD really an address. CONTINUE is the piece that comes next.
//
// Each piece gets the address of the program's memory, in rdi as the first argument of C, and passes it on in a tail
// call. That is the trace ABI (docs/traces.md): the context in rdi at the start, and the stack as it was at the end,
// which a tail call guarantees.
typedef int word;
typedef unsigned uword;  // arithmetic wraps around, as it does with | 0 in JavaScript

extern char A, B, C, VALUE;
extern char VALID, WARM, RECORD;
extern void CONTINUE(word* memory);
extern void EXIT(word* memory);
extern void TARGET(word* memory);
extern void SET_GLOBAL(word global, word value);

#define NUMBER(hole) ((long)&(hole))
#define R(hole) memory[NUMBER(hole)]

// Every trace begins with this: it says that it is in use, and leaves at once when its assumptions no longer hold.
void start(word* memory) {
  *(volatile char*)&WARM = 1;
  if (*(volatile char*)&VALID)
    CONTINUE(memory);
  else
    EXIT(memory);
}

void constant(word* memory) {
  R(A) = (word)NUMBER(VALUE);
  CONTINUE(memory);
}
void add(word* memory) {
  R(A) = (uword)R(B) + (uword)R(C);
  CONTINUE(memory);
}
void subtract(word* memory) {
  R(A) = (uword)R(B) - (uword)R(C);
  CONTINUE(memory);
}
void multiply(word* memory) {
  R(A) = (uword)R(B) * (uword)R(C);
  CONTINUE(memory);
}
void xor_(word* memory) {
  R(A) = R(B) ^ R(C);
  CONTINUE(memory);
}
void add_constant(word* memory) {
  R(A) = (uword)R(B) + (uword)NUMBER(VALUE);
  CONTINUE(memory);
}
void move(word* memory) {
  R(A) = R(B);
  CONTINUE(memory);
}

// Guards: the branch went one way when the trace was recorded. If it goes the other way now, the trace is left.
void guard_less(word* memory) {
  if (R(A) < R(B))
    CONTINUE(memory);
  else
    EXIT(memory);
}
void guard_not_less(word* memory) {
  if (R(A) < R(B))
    EXIT(memory);
  else
    CONTINUE(memory);
}

// Calls the JIT, which may invalidate any trace, this one too: then the rest of it must not run.
void set_global(word* memory) {
  SET_GLOBAL((word)NUMBER(A), R(B));
  if (*(volatile char*)&VALID)
    CONTINUE(memory);
  else
    EXIT(memory);
}

// The ways on at the end of a trace: round the loop again; the end of the run, where TARGET is 'done'; an exit.
void go(word* memory) { TARGET(memory); }

// Through the exit record, whose address belongs into r11. C has no words for that, and two lines of assembly do. A piece
// of its own, since only a function that has nothing else to do surely has not moved the stack pointer.
void leave(word* memory) {
  register void* record __asm__("r11") = &RECORD;
  __asm__ volatile("jmp *(%0)" : : "r"(record), "D"(memory) : "memory");
  __builtin_unreachable();
}
