/* Preloaded into a program that cannot call fork() itself, because `fork` is
 * unsafe in Rust: getppid() forks. It returns 0 in the child, and the child's
 * process number in the parent. */
#include <unistd.h>

pid_t getppid(void) { return fork(); }
