#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# httpd accepts every example configuration as it is, and every example line of the reference.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Source;
use ChatStream::Test;

sub config_of
{
    my (%options) = @_;
    my $t = ChatStream::Test->new(start => 0, upstreams => [], %options);
    my ($valid, $said) = $t->httpd->check_config;
    ok $valid, $options{name} or diag $said;
    # What httpd only warns about is a mistake in an example.
    unlike $said, qr/:warn\]|:error\]|:alert\]|:emerg\]/, "$options{name}: without a warning";
    return;
}

my @examples = files_in('conf/examples', qr/\.conf$/);
ok @examples, 'found the examples';
for my $file (@examples) {
    # The modules httpd would have loaded anyway; the listening port is one that is free for certain.
    config_of(
        name => $file, modules => ['authz_host'], env => { ENABLE_STREAMING => 'true' },
        server_config => 'Define CHAT_PORT ' . free_port() . "\nInclude \"" . source_dir() . "/$file\"",
    );
}

# Each commented example of the reference, in a section it may stand in. Files it names are made up here.
my $t = ChatStream::Test->new(start => 0, upstreams => []);
$t->httpd->make_certificate;
my $template = $t->dir . '/template.json';
open my $handle, '>', $template or die;
print $handle qq({"q": "{message}"}\n);
close $handle;
my $dir = $t->dir;
my $secret = "$dir/jwt-secret";
open $handle, '>', $secret or die;
print $handle 'k' x 32;
close $handle;
my ($server, $directory) = ('', '');
my $examples = 0;
for my $entry (split /^(?=# Directive: )/m, text_of('conf/chatstream.conf')) {
    my ($name) = $entry =~ /^# Directive: (\w+)$/m or next;
    for my $line ($entry =~ /^#(\Q$name\E .*)$/mg) {
        $examples++;
        $line =~ s/ca=\S+/ca=$t->{httpd}{ca}/;
        $line =~ s{conf/(?:jwt-secret|hash-key)}{$secret};
        $line =~ s{/var/lib/chatstream}{$dir/state};
        $line =~ s/\S+\.json$/$template/ if $name eq 'ChatStreamRequestTemplate';
        if ($entry =~ /^#   Context +server config$/m) { $server .= "$line\n" }
        else { $directory .= "$line\n" }
    }
}
cmp_ok $examples, '>', 10, 'found the examples of the reference';
config_of(
    name => 'the examples of the reference',
    env => { LLM_KEY => 'x' },
    server_config => $server,
    config => qq(<Location "/chat">\nSetHandler chatstream\n$directory</Location>\n),
);
done_testing();
