#include "test.h"

int main(int argc, char** argv) { return test::RunAll({argv + 1, argv + argc}); }
