<?php
// Greets, and counts what is posted: up to 16 KB, since this build of PHP cannot make temporary files.
header('Content-Type: text/plain');
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    echo strlen(file_get_contents('php://input')), " bytes\n";
} else {
    echo 'Hello from PHP ', PHP_VERSION, ', ', htmlspecialchars($_GET['name'] ?? 'you'), "!\n";
}
