// The importable part: importing `caracal_kernels._cpu` registers the ops and offers the choice of instruction set.
#include <Python.h>

#include "isa.h"

namespace {

PyObject* best_isa(PyObject*, PyObject*) { return PyUnicode_FromString(caracal::best_isa().c_str()); }

PyObject* use_isa(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8(name);
  return text ? PyBool_FromLong(caracal::use_isa(text)) : nullptr;
}

PyMethodDef methods[] = {{"best_isa", best_isa, METH_NOARGS, "The widest instruction set this CPU has."},
                         {"use_isa", use_isa, METH_O, "Switches to an instruction set; False when this CPU lacks it."},
                         {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

// What it was compiled from and for; read from the file before the file is loaded.
__attribute__((used)) const char build_id[] = CARACAL_BUILD_ID;

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
