"""The workbooks of this folder: how NAPS, EmoMadrid and IAPS are handed on, with invented ratings.

    pip install openpyxl xlwt odfpy msoffcrypto-tool && python make.py
"""

import io

import msoffcrypto.format.ooxml
import openpyxl
import xlwt
from odf import opendocument, table, text

# NAPS: a title, two rows of header with merged cells, nine columns called M.
book = xlwt.Workbook()
sheet = book.add_sheet("ratings")
sheet.write(0, 0, "Valence, arousal and approach-avoidance ratings")
for group, name in enumerate(["Women", "Men", "All"]):
    for dimension, what in enumerate(["valence", "approach", "arousal"]):
        first = 5 + 6 * group + 2 * dimension
        sheet.write_merge(1, 1, first, first + 1, f"{name} {what}")
for column, name in enumerate(["ID", "Category", "Nr", "V/H", "Description"] + 9 * ["M", "SD"]):
    sheet.write(2, column, name)
for row, (key, category, valence, arousal) in enumerate(
    [("Animals_001_h", "Animals", 2.57, 6.44), ("Faces_002_v", "Faces", 9, 1)], 3
):
    values = [key, category, row - 2, key[-1], "invented"] + 9 * [5.5, 1.5]
    values[5 + 12], values[6 + 12] = valence, 0.5
    values[5 + 16], values[6 + 16] = arousal, 0.25
    for column, value in enumerate(values):
        sheet.write(row, column, value)
book.save("naps.xls")

# EmoMadrid: the header on row 2, stray spaces in the codes, a row without a picture, two sheets.
book = openpyxl.Workbook()
sheet = book.active
sheet.title = "Index"
sheet.append(["EmoMadrid, May"])
sheet.append(["EM CODE", "Mean\nValence", "Mean Arousal", "N"])
for row in [["EM0083 ", -2, 2, 40], [" EM0084", 0.5, -1, 40], ["EM0099", 1, 1, 40]]:
    sheet.append(row)
book.create_sheet("Notes").append(["nothing here"])
book.save("emomadrid.xlsx")

# The same, locked.
plain = io.BytesIO()
book.save(plain)
with open("locked.xlsx", "wb") as locked:
    msoffcrypto.format.ooxml.OOXMLFile(plain).encrypt("secret", locked)

# IAPS: ids as numbers, as a spreadsheet makes of them.
book = opendocument.OpenDocumentSpreadsheet()
sheet = table.Table(name="AllSubjects")
for row in [
    ["desc", "IAPS", "valmn", "valsd", "aromn", "arosd", "dom1mn", "set"],
    ["Snake", 1050, 3.46, 2.15, 6.87, 1.68, ".", 1],
    ["Boy", 2055.1, 1, 1, 9, 1, 3.5, 2],
]:
    line = table.TableRow()
    for value in row:
        number = isinstance(value, (int, float))
        cell = table.TableCell(**(dict(valuetype="float", value=value) if number else dict(valuetype="string")))
        cell.addElement(text.P(text=str(value)))
        line.addElement(cell)
    sheet.addElement(line)
book.spreadsheet.addElement(sheet)
book.save("iaps.ods")
