// The importable part: importing `caracal_kernels._cpu` registers the ops and offers the choice of instruction set.
#include <Python.h>

#include "crc32.h"
#include "isa.h"

namespace {

PyObject* best_isa(PyObject*, PyObject*) { return PyUnicode_FromString(caracal::best_isa().c_str()); }

PyObject* use_isa(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8(name);
  return text ? PyBool_FromLong(caracal::use_isa(text)) : nullptr;
}

PyObject* crc32(PyObject*, PyObject* arguments) {
  Py_buffer data;
  unsigned int so_far = 0;
  if (!PyArg_ParseTuple(arguments, "y*|I", &data, &so_far)) return nullptr;
  uint32_t crc;
  Py_BEGIN_ALLOW_THREADS
  crc = caracal::crc32(data.buf, static_cast<std::size_t>(data.len), so_far);
  Py_END_ALLOW_THREADS
  PyBuffer_Release(&data);
  return PyLong_FromUnsignedLong(crc);
}

PyMethodDef methods[] = {{"best_isa", best_isa, METH_NOARGS, "The widest instruction set this CPU has."},
                         {"use_isa", use_isa, METH_O, "Switches to an instruction set; False when this CPU lacks it."},
                         {"crc32", crc32, METH_VARARGS, "As zlib.crc32, by carry-less products where this CPU has them."},
                         {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

// What it was compiled from and for; read from the file before the file is loaded.
__attribute__((used)) const char build_id[] = CARACAL_BUILD_ID;

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
